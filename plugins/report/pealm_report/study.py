"""Charts of a study: the best validation loss of each run against every setting in which the runs differ."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pealm_report.reading import JOURNAL, Run, find, is_number, read

SHOWN = 12  # runs of a study that are compared; the charts have all
CHARTS = 24
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 220, 52, 12, 12, 28  # of a chart and its margins, in pixels


def runs_of(folder: Path) -> list[Run] | None:
    """Return the runs of a study's folder, the best first; None if it is not a study."""
    if not (folder / JOURNAL).is_file():
        return None
    return sorted(map(read, find(folder)), key=lambda run: (run.metrics.best or (0, math.inf))[1])


def charts(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[str, Markup]]:
    """Return (setting, SVG) for each setting that differs between three or more runs with a loss."""
    points = [(run, name, run.metrics.best[1]) for run, name in zip(runs, names, strict=True) if run.metrics.best]
    if len(points) < 3:
        return []
    keys = dict.fromkeys((table, key) for run, _, _ in points for table in run.config for key in run.config[table])
    found = []
    for table, key in keys:
        values = [run.config.get(table, {}).get(key) for run, _, _ in points]
        if table not in ("versions", "plugins") and len({repr(value) for value in values}) > 1:
            dots = [(value, loss, name) for value, (_, name, loss) in zip(values, points, strict=True)]
            found.append((f"{table}.{key}", chart(f"{table}.{key}", dots)))
    return found[:CHARTS]


def chart(title: str, dots: Sequence[tuple[Any, float, str]]) -> Markup:
    """Return an SVG: numbers to scale, logarithmic beyond a factor of 20; other values side by side."""
    values = [value for value, _, _ in dots]
    if all(map(is_number, values)):
        log = min(values) > 0 and max(values) > 20 * min(values)
        xs = [math.log(value) if log else float(value) for value in values]
        ticks = {
            x: f"{value:.4g}" for x, value in zip(xs, values, strict=True) if value in (min(values), max(values))
        }
    else:
        texts = sorted({str(value) for value in values})
        xs = [float(texts.index(str(value))) for value in values]
        ticks = {float(place): text[: max(4, 40 // len(texts))] for place, text in enumerate(texts[:8])}
    losses = [loss for _, loss, _ in dots]
    low, high = min(losses), max(losses)
    parts = []
    for loss in (low, (low + high) / 2, high):
        y = _place(loss, losses, HEIGHT - BOTTOM - 8, TOP)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{loss:.4g}</text>')
    for x, text in ticks.items():
        at = _place(x, xs, LEFT + 16, WIDTH - RIGHT - 16)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(text)}</text>')
    for x, (value, loss, name) in sorted(zip(xs, dots, strict=True), key=lambda pair: -pair[1][1]):
        at, y = _place(x, xs, LEFT + 16, WIDTH - RIGHT - 16), _place(loss, losses, HEIGHT - BOTTOM - 8, TOP)
        kind = "dot lowest" if loss == low else "dot"
        about = escape(f"{name}: {loss:.4f}, {title} {value}")
        parts.append(f'<circle class="{kind}" cx="{at:.1f}" cy="{y:.1f}" r="4.5"><title>{about}</title></circle>')
    label = escape(f"Best validation loss against {title}")
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>')


def _place(value: float, values: Sequence[float], start: float, end: float) -> float:
    low, high = min(values), max(values)
    return start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)
