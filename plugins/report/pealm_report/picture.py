"""loss.png: training and validation loss against tokens, the best point, the entropy floor, the learning rate."""

import os
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pealm_report.curves import smooth, thin
from pealm_report.reading import Run, read
from pealm_report.words import duration, short

TRAIN, VAL, INK, QUIET, GRID = "#0072B2", "#D55E00", "#222222", "#767676", "#E4E4E4"


def draw(folder: Path) -> Path | None:
    """Draw a run's loss.png, at once or not at all; None where it has fewer than two steps. Raises UserError."""
    run = read(folder)
    if not run.metrics.at("step", -1) >= 2:  # also without any step, NaN
        return None
    target, aside = folder / "loss.png", folder / f".loss.png.{os.urandom(6).hex()}.tmp"
    figure = Figure(figsize=(8, 5.2), dpi=150, facecolor="white", layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(5, 1))
    _head(figure, run)
    _loss(above, run)
    _rate(below, run)
    try:
        FigureCanvasAgg(figure).print_figure(aside, format="png")
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def _head(figure: Figure, run: Run) -> None:
    step, seconds, parameters = run.metrics.at("step", -1), run.number("seconds"), run.number("parameters")
    seconds = run.metrics.at("seconds", -1) if seconds is None else seconds
    parts = [] if parameters is None else [f"{parameters:,} parameters"]
    parts += [f"{step:,.0f} steps", duration(seconds)]
    title = f"{run.model} on {run.data}"
    figure.suptitle(f"{title}\n", x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.text(0.012, 0.925, " · ".join(parts), ha="left", va="center", fontsize=9, color=QUIET)


def _loss(axes: Axes, run: Run) -> None:
    metrics = run.metrics
    tokens, loss = metrics.columns["tokens"], metrics.columns["loss"]
    places = thin(loss, 600)
    axes.plot([tokens[i] for i in places], [loss[i] for i in places], color=TRAIN, alpha=0.25, linewidth=0.8)
    mean = smooth(loss, 300)
    axes.plot([tokens[i] for i, _ in mean], [y for _, y in mean], color=TRAIN, linewidth=1.8, label="training")
    if metrics.val:
        marks: dict[str, Any] = {"marker": "o", "markersize": 4, "clip_on": False} if len(metrics.val) <= 40 else {}
        x, y = [tokens[i] for i, _ in metrics.val], [y for _, y in metrics.val]
        axes.plot(x, y, color=VAL, linewidth=1.8, label="validation", **marks)
    if run.before is not None:
        axes.plot(0, run.before, "o", markersize=4, color=VAL, clip_on=False)
    if run.floor is not None:
        axes.axhline(
            run.floor, color=INK, linewidth=1.2, linestyle=(0, (5, 3)), label=f"entropy floor {run.floor:.4f}"
        )
    if metrics.best is not None:
        place, best = metrics.best
        late = tokens[place] > 0.5 * tokens[-1]
        ring: dict[str, Any] = {"markersize": 9, "markerfacecolor": "none", "markeredgecolor": INK}
        axes.plot(tokens[place], best, "o", markeredgewidth=1.4, clip_on=False, zorder=4, **ring)
        axes.annotate(
            f"best {best:.4f}\nstep {metrics.at('step', place):,.0f}",
            (tokens[place], best),
            xytext=(0, 22),
            textcoords="offset points",
            ha="right" if late else "left",
            fontsize=9,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            arrowprops={"arrowstyle": "-", "color": QUIET, "linewidth": 0.8, "shrinkB": 5},
        )
    low, high = axes.dataLim.intervaly
    if low > 0 and high > 2 * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8), numticks=20))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.set_ylabel("loss (nats per token)", fontsize=9, color=INK)
    axes.legend(loc="upper right", frameon=False, fontsize=9, labelcolor=INK)
    _tidy(axes)
    axes.tick_params(axis="x", length=0, labelbottom=False)


def _rate(axes: Axes, run: Run) -> None:
    tokens, rate = run.metrics.columns["tokens"], run.metrics.columns["lr"]
    places = thin(rate, 300)
    x, y = [tokens[i] for i in places], [rate[i] for i in places]
    axes.fill_between(x, y, color=QUIET, alpha=0.18, linewidth=0)
    axes.plot(x, y, color=QUIET, linewidth=1.4)
    axes.set_ylim(0, 1.1 * max(y, default=0) or 1)
    axes.set_yticks([0, max(y, default=0)], ["0", f"{max(y, default=0):.3g}"])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short(x)))
    axes.set_xlim(0, 1.01 * tokens[-1])
    axes.set_xlabel("tokens", fontsize=9, color=INK)
    axes.set_ylabel("learning\nrate", fontsize=9, color=INK)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#BBBBBB")
    axes.tick_params(labelsize=9, colors=QUIET, length=0)
