"""A scaling law: the loss against the compute of a miniseries of models, each with its own optimal training.

    python scripts/bench/scaling.py [--model gpt2] [--minutes 20] [--width 24] [--depths 1,2,3,4,5,6] [--out FOLDER]

The models have 1, 2, 3, ... layers of `--width` features for each; sizes, tokens, batch and rate are those of
`pealm_core.depth_preset`, as with `pealm train --depth`, which has a width of 64. They are trained from the smallest
on, as long as the next one should end within `--minutes` at the speed of those before. The data are the
kindergarten's stories, of which the lowest possible loss is known. So the law has two constants:

    loss - floor = a * compute ** -b

fitted by least squares of the logarithms. For each model from the third on, what the law of the smaller ones predicts
stands beside what was measured. Compute is counted in FLOPs: 6 for each weight of a matrix and token, and attention.
"""

import argparse
import csv
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pealm_core
from pealm_core import depth_preset

STORIES = 30_000
MODELS = ("gpt2", "llama", "sprout")


@dataclass(frozen=True)
class Point:
    """A trained model. loss and floor in nats per character."""

    depth: int
    parameters: int
    tokens: int
    compute: float
    loss: float
    floor: float
    seconds: float


def settings(model: str, depth: int, width: int, fraction: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tables of the model and of its training."""
    preset = depth_preset(depth, width=width)
    train = preset.pop("train")
    train["steps"] = max(2, round(train["steps"] * fraction))
    train["warmup_steps"] = min(train["warmup_steps"], train["steps"] // 2)
    if model == "llama":
        preset["n_kv_head"] = None
    if model == "sprout":
        train["optimizer"] = {"name": "muon", "adam_lr": train.pop("lr")}
    return {"name": model, **preset}, train


def flops(depth: int, width: int, block: int, vocabulary: int) -> float:
    """FLOPs of a token, forward and backward."""
    features = width * depth
    return 6 * (12 * depth * features**2 + vocabulary * features) + 12 * depth * features * block


def measure(model: str, depth: int, width: int, fraction: float, stories: int, folder: Path) -> Point:
    """Train a model and return its point."""
    table, train = settings(model, depth, width, fraction)
    run = pealm_core.train(
        table,
        {"kindergarten": 1, "stories": stories},
        tokenizer="char",
        out=folder / f"depth-{depth}",
        eval_every=0,
        save_every=0,
        dtype="fp32",
        **train,
    )
    facts = json.loads((run / "run.json").read_text())
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    each = flops(depth, width, table["block_size"], facts["vocab_size"])
    return Point(
        depth,
        facts["parameters"],
        last["tokens"],
        each * last["tokens"],
        last["val_loss"],
        facts["entropy_floor"],
        facts["seconds"],
    )


def fit(points: Sequence[Point]) -> tuple[float, float]:
    """Return a and b of the law by least squares of the logarithms.

    >>> points = [Point(1, 1, 1, c, 0.5 + 3 * c**-0.25, 0.5, 1.0) for c in (1e3, 1e4, 1e6)]
    >>> [round(number, 6) for number in fit(points)]
    [3.0, 0.25]
    """
    xs = [math.log(point.compute) for point in points]
    ys = [math.log(max(point.loss - point.floor, 1e-9)) for point in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    return math.exp(mean_y - slope * mean_x), -slope


def forecast(points: Sequence[Point], compute: float) -> float:
    """Return the seconds that another compute takes, from the last two models. Small ones use a machine less well.

    >>> points = [Point(1, 1, 1, 1e6, 0.0, 0.0, 2.0), Point(1, 1, 1, 4e6, 0.0, 0.0, 4.0)]
    >>> round(forecast(points, 1.6e7), 6), round(forecast(points[:1], 1e6), 6)
    (8.0, 2.0)
    """
    power = 0.7
    if len(points) > 1:
        before, last = points[-2:]
        power = math.log(last.seconds / before.seconds) / math.log(last.compute / before.compute)
    return points[-1].seconds * float((compute / points[-1].compute) ** min(1.0, max(0.5, power)))


def predicted(points: Sequence[Point], compute: float) -> float:
    """Return the loss that the law of some models gives for another compute."""
    a, b = fit(points)
    return points[0].floor + float(a * compute**-b)


def chart(points: Sequence[Point], target: Path) -> None:
    """Draw the points and the law."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    computes = [point.compute for point in points]
    axes.plot(computes, [point.loss - point.floor for point in points], "o", color="#0072B2", label="trained")
    for point in points:
        axes.annotate(
            f"depth {point.depth}", (point.compute, point.loss - point.floor), (7, 7), textcoords="offset points"
        )
    if len(points) > 1:
        a, b = fit(points)
        ends = [min(computes) / 2, max(computes) * 10]
        axes.plot(ends, [a * end**-b for end in ends], "--", color="#D55E00", label=f"{a:.3g} · C^-{b:.3f}")
    axes.set(xscale="log", yscale="log", xlabel="compute (FLOPs)", ylabel="loss above the floor (nats per character)")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")  # not 2 × 10⁰
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False)
    figure.savefig(target, format="svg")


def main() -> None:
    """Train the miniseries; print a table and the law."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="gpt2")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--width", type=int, default=24, help="features for each layer, even (default: 24)")
    parser.add_argument("--depths", default="1,2,3,4,5,6", help="layers of the models, ascending")
    parser.add_argument("--out", type=Path, help="a folder for scaling.csv and scaling.svg")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the optimal number of steps")
    parser.add_argument("--stories", type=int, default=STORIES)
    given = parser.parse_args()
    points: list[Point] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        for depth in map(int, given.depths.split(",")):
            if points:
                preset = depth_preset(depth, width=given.width)
                tokens = 240 * given.fraction * depth * preset["n_embd"] ** 2
                expected = flops(depth, given.width, preset["block_size"], 64) * tokens
                seconds = forecast(points, expected)
                if time.perf_counter() - began + seconds > 60 * given.minutes:
                    print(f"depth {depth} would take {seconds:,.0f} s more; left out")
                    break
            points.append(measure(given.model, depth, given.width, given.fraction, given.stories, Path(name)))
    print(f"{given.model}, {given.width} features for each layer, floor {points[0].floor:.4f}")
    print("depth  parameters       tokens     FLOPs    loss  predicted  error  seconds")
    for place, point in enumerate(points):
        guess = predicted(points[:place], point.compute) if place > 1 else math.nan
        error = (guess - point.floor) / (point.loss - point.floor) - 1
        shown = f"{guess:9.4f} {error:+6.1%}" if place > 1 else f"{'–':>9} {'–':>6}"
        print(
            f"{point.depth:>5} {point.parameters:>11,} {point.tokens:>12,} {point.compute:>9.2e} {point.loss:>7.4f} "
            f"{shown} {point.seconds:>8.1f}"
        )
    if len(points) > 1:
        a, b = fit(points)
        print(f"law: loss = {points[0].floor:.4f} + {a:.4g} * C^-{b:.4f}")
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        with (given.out / "scaling.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Point.__annotations__)
            writer.writerows([[getattr(point, key) for key in Point.__annotations__] for point in points])
        chart(points, given.out / "scaling.svg")


if __name__ == "__main__":
    main()
