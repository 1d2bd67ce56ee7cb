"""What a study found: a table, the best config, and a page with a chart, each written at once or not at all."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from pealm_core import PealmError
from pealm_sweep.plan import Range
from pealm_sweep.study import Study

WIDTH, HEIGHT, LEFT, BOTTOM = 320, 200, 56, 24  # of a chart and its margins, in pixels
STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
STYLE = """
:root { color-scheme: light dark; --ink: #222; --quiet: #767676; --mark: #0072b2; --best: #d55e00 }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --quiet: #999; --mark: #56b4e9; --best: #e69f00 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 1040px; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: anywhere }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #8883; white-space: nowrap }
.charts { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0 }
figcaption { font-size: .9rem; font-weight: 600 } .best { font-weight: bold }
svg { width: 320px; height: 200px; overflow: visible } pre { overflow-x: auto }
svg text { font-size: 11px; fill: var(--quiet) } circle { fill: var(--mark); fill-opacity: .7 }
circle.pruned { fill: none; stroke: var(--quiet) } circle.best { fill: var(--best); fill-opacity: 1 }
polyline { fill: none; stroke: var(--best); stroke-width: 1.5 } line { stroke: #8885 }
"""


def describe(params: Mapping[str, Any]) -> str:
    """Return a trial's values in one line.

    >>> describe({"lr": 0.00123456, "model.n-embd": 64})
    'lr 0.00123456, model.n-embd 64'
    """
    return ", ".join(f"{name} {_text(value)}" for name, value in params.items())


def table(study: Study) -> str:
    """Return the trials as lines, the lowest loss first."""
    rows = [_head(study), *_rows(study)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def write(study: Study) -> None:
    """Write trials.txt, study.html and, if a trial is completed, best.toml. Raises PealmError."""
    best, config = study.best(), ""
    if best is not None:
        config = (study.folder / best.user_attrs["run"] / "config.toml").read_text(encoding="utf-8")
        replace(study.folder / "best.toml", config)
    replace(study.folder / "trials.txt", table(study) + "\n")
    replace(study.folder / "study.html", render(study, best, config))


def render(study: Study, best: FrozenTrial | None, config: str) -> str:
    """Return the page: the loss of each trial, and against each option; the table; the best config."""
    title = f"Study {study.folder.name}"
    trials = [trial for trial in study.trials() if value_of(trial) is not None]
    charts = [_chart("trial", trials, lambda trial: trial.number, best)] if trials else []
    for name, option in study.plan.options.items():
        values = [_text(value) for value in option.values]
        if isinstance(option, Range):
            charts.append(_chart(name, trials, partial(_number, name), best, log=option.log))
        else:
            charts.append(_chart(name, trials, partial(_place, name, values), best, ticks=values))
    head = "".join(f"<th>{escape(name)}</th>" for name in _head(study))
    marked = best and best.user_attrs["run"]
    body = "".join(
        f"<tr{' class=best' if row[0] == marked else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for row in _rows(study)
    )
    found = "no trial is done"
    if best is not None:
        found = f"best validation loss {best.value:.4f} ({marked}: {describe(best.params)})"
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,"><title>{escape(title)} – pealm</title><style>{STYLE}</style>
<h1>{escape(title)}</h1><p>{escape(found)}</p>
<p>{len(study.trials())} of {study.plan.trials} trials; losses in nats per token; rings are pruned trials.</p>
<div class="charts">{"".join(charts)}</div>
<h2>Trials</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>
{f"<h2>Best config</h2><pre>{escape(config)}</pre>" if config else ""}
</html>
"""


def value_of(trial: FrozenTrial) -> float | None:
    """Return a trial's loss: the lowest one, or a pruned trial's last one; None if it has none."""
    value: float | None = trial.value if trial.state == TrialState.COMPLETE else None
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        value = min(trial.intermediate_values.values())
    return value


def _head(study: Study) -> list[str]:
    return ["trial", "state", "val_loss", *study.plan.options, "reason"]


def _rows(study: Study) -> list[list[str]]:
    """Return the cells of each trial, the lowest loss first, then pruned, failed and running ones."""
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1, TrialState.FAIL: 2}

    def key(trial: FrozenTrial) -> tuple[float, ...]:
        loss = value_of(trial)
        return order.get(trial.state, 3), math.inf if loss is None else loss, trial.number

    rows = []
    for trial in sorted(study.trials(), key=key):
        loss, user = value_of(trial), trial.user_attrs
        params = trial.params or trial.system_attrs.get("fixed_params", {})  # of a trial that waits
        cells = [_text(params.get(name, "–")) for name in study.plan.options]
        state = STATES.get(trial.state, "running" if trial.state == TrialState.RUNNING else "waiting")
        row = [user.get("run", "–"), state, "–" if loss is None else f"{loss:.4f}", *cells, user.get("reason", "")]
        rows.append([printable(str(cell)) for cell in row])
    return rows


def _number(name: str, trial: FrozenTrial) -> float:
    return float(trial.params[name])


def _place(name: str, values: Sequence[str], trial: FrozenTrial) -> float:
    return float(values.index(_text(trial.params[name])))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def printable(text: str) -> str:
    """Return a text that takes one line and can't control a terminal.

    >>> printable("a\\x1b[2J")
    'a�[2J'
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _chart(
    name: str,
    trials: Sequence[FrozenTrial],
    at: Callable[[FrozenTrial], float],
    best: FrozenTrial | None,
    *,
    log: bool = False,
    ticks: Sequence[str] | None = None,
) -> str:
    """Return a chart of the losses against a number of each trial, as SVG."""
    points = [(math.log(at(t)) if log else float(at(t)), float(value_of(t) or 0.0), t) for t in trials]
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    x, y = _scale(xs, LEFT + 12, WIDTH - 16), _scale(ys, HEIGHT - BOTTOM - 10, 8)
    parts = [f'<line x1="{LEFT}" y1="{HEIGHT - BOTTOM}" x2="{WIDTH}" y2="{HEIGHT - BOTTOM}"/>']
    for value in sorted({min(ys), max(ys)}) if ys else ():
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    ends = sorted({min(xs), max(xs)}) if xs else []
    for end in range(len(ticks)) if ticks else ends:
        label = ticks[int(end)] if ticks else f"{math.exp(end) if log else end:.3g}"
        if not ticks or min(xs, default=0) <= end <= max(xs, default=0):
            parts.append(f'<text x="{x(end):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(label[:12])}</text>')
    if name == "trial":
        low, line = math.inf, []
        for place, loss, trial in sorted(points, key=lambda point: point[0]):
            low = min(low, loss) if trial.state == TrialState.COMPLETE else low
            line += [f"{x(place):.1f},{y(low):.1f}"] if math.isfinite(low) else []
        parts.append(f'<polyline points="{" ".join(line)}"/>')
    for place, loss, trial in points:
        kind = "best" if best and trial.number == best.number else STATES[trial.state]
        text = escape(f"{trial.user_attrs.get('run')}: {loss:.4f}; {describe(trial.params)}")
        parts.append(
            f'<circle class="{kind}" cx="{x(place):.1f}" cy="{y(loss):.1f}" r="4"><title>{text}</title></circle>'
        )
    shown = escape(name)
    return (
        f'<figure><figcaption>{shown}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Validation loss against {shown}">{"".join(parts)}</svg></figure>'
    )


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """Return the function that places numbers between two pixels."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    span = high - low or 1.0
    return lambda value: start + (end - start) * (value - low if high > low else 0.5) / span


def replace(path: Path, text: str) -> None:
    """Write a file completely or not at all. Raises PealmError."""
    aside = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        with aside.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise PealmError(f"{path} can't be written: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)
