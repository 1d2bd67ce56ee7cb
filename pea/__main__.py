"""Train a small network to separate two moons, and draw its decision boundary in characters.

`--walk` goes through one training step of a single neuron instead, an operation at a time; `--html FILE` draws
its graph.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import time
from collections.abc import Sequence

import pea
from pea import Value, viz, walk
from pea.nn import MLP
from pea.optim import SGD

Point = tuple[float, float]

WIDTH, HEIGHT = 72, 24  # of the picture, in characters (about twice as high as wide)
LEFT, RIGHT, BOTTOM, TOP = -1.6, 2.6, -1.1, 1.6
SHADES = ".:- "  # score below -1 (certainly the lower moon), below 0, above 0, above 1 (certainly the upper)


def moons(n: int, *, noise: float = 0.1, rng: random.Random) -> tuple[list[Point], list[int]]:
    """Make `n` points on two interleaved half circles, labelled alternately +1 (upper) and -1 (lower)."""
    points, labels = [], []
    for i in range(n):
        angle = math.pi * rng.random()
        x, y = math.cos(angle), math.sin(angle)
        if i % 2:
            x, y = 1.0 - x, 0.5 - y
        points.append((x + rng.gauss(0.0, noise), y + rng.gauss(0.0, noise)))
        labels.append(-1 if i % 2 else 1)
    return points, labels


def hinge_loss(model: MLP, points: Sequence[Point], labels: Sequence[int]) -> tuple[Value, float]:
    """Return hinge loss plus weight decay, and the accuracy. A score beyond 1 on the right side costs nothing."""
    scores = [model(point) for point in points]
    margins = [(1.0 - label * score).relu() for label, score in zip(labels, scores, strict=True)]
    params = model.parameters()
    loss = pea.sum(margins) / len(margins) + 1e-4 * pea.dot(params, params)
    correct = [(score.data > 0) == (label > 0) for label, score in zip(labels, scores, strict=True)]
    return loss, sum(correct) / len(correct)


def train(model: MLP, points: Sequence[Point], labels: Sequence[int], *, steps: int) -> None:
    """Train with a decaying learning rate. Show progress in one line on a terminal, in ten lines elsewhere."""
    optimizer = SGD(model.parameters(), lr=1.0)
    live = sys.stdout.isatty()
    start = time.perf_counter()
    for step in range(1, steps + 1):
        optimizer.lr = 1.0 - 0.9 * (step - 1) / steps
        loss, accuracy = hinge_loss(model, points, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if live or step == steps or step % max(1, steps // 10) == 0:
            bar = f"[{'#' * (20 * step // steps):20}]"
            ms = (time.perf_counter() - start) / step * 1000
            line = f"{bar} step {step}/{steps}  loss {loss.data:.4f}  accuracy {accuracy:4.0%}  {ms:.1f} ms/step"
            print("\r" + line if live else line, end="" if live else "\n", flush=True)
    if live:
        print()


def picture(model: MLP, points: Sequence[Point], labels: Sequence[int]) -> str:
    """Draw the model's score over the plane, with the points on top: `o` upper, `x` lower."""
    dx, dy = (RIGHT - LEFT) / WIDTH, (TOP - BOTTOM) / HEIGHT
    rows = []
    for row in range(HEIGHT):
        y = TOP - (row + 0.5) * dy
        scores = [model((LEFT + (col + 0.5) * dx, y)).data for col in range(WIDTH)]
        rows.append([SHADES[max(0, min(3, math.floor(score) + 2))] for score in scores])
    for (x, y), label in zip(points, labels, strict=True):
        row, col = math.floor((TOP - y) / dy), math.floor((x - LEFT) / dx)
        if 0 <= row < HEIGHT and 0 <= col < WIDTH:
            rows[row][col] = "o" if label > 0 else "x"
    return "\n".join("".join(row).rstrip() for row in rows)


def neuron_loss() -> tuple[list[Value], Value]:
    """Return the weights of one neuron, and its squared error on the point (1, 2), whose target is 1."""
    w1, w2, bias = Value(0.5, label="w1"), Value(-0.5, label="w2"), Value(0.0, label="bias")
    x1, x2 = Value(1.0, label="x1"), Value(2.0, label="x2")
    out = (w1 * x1 + w2 * x2 + bias).tanh()
    out.label = "out"
    loss = (out - 1.0) ** 2
    loss.label = "loss"
    return [w1, w2, bias], loss


def walk_through(*, rate: float = 0.1) -> None:
    """Show one training step of a neuron: forward, backward, update. On a terminal, Enter continues."""
    params, loss = neuron_loss()
    wait = sys.stdin.isatty() and sys.stdout.isatty()
    print("one neuron, out = tanh(w1*x1 + w2*x2 + bias), on the point (1, 2) with the target 1")
    if wait:
        print("Enter: next operation, a: all of this part, q: quit")
    print("forward: each operation computes a number and its slopes")
    if not walk.show(walk.forward(loss), wait=wait):
        return
    print("backward: each value's gradient is slope * gradient of what it was used for, added up")
    if not walk.show(walk.backward(loss), wait=wait):
        return
    loss.backward()
    print(f"update: each parameter moves against its gradient, times the learning rate {rate:g}")
    moves = [f"{p.label} = {p.data:.4g} - {rate:g} * {p.grad:.4g} = {p.data - rate * p.grad:.4g}" for p in params]
    if not walk.show(moves, wait=wait):
        return
    before = loss.data
    changed = [p.data - rate * p.grad for p in params]
    out = math.tanh(changed[0] * 1.0 + changed[1] * 2.0 + changed[2])
    print(f"the loss was {before:.4g} and is now {(out - 1.0) ** 2:.4g}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pea", description=__doc__)
    parser.add_argument("--steps", type=int, default=100, help="training steps (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=7, help="random seed of points and weights (default: %(default)s)"
    )
    parser.add_argument(
        "--walk", action="store_true", help="go through one training step of a neuron, an operation at a time"
    )
    parser.add_argument("--html", metavar="FILE", help="write the neuron's graph with values and gradients as a page")
    args = parser.parse_args(argv)
    if args.walk:
        walk_through()
    if args.html:
        _, loss = neuron_loss()
        loss.backward()
        try:
            viz.save_html(loss, args.html, title="One neuron")
        except (ImportError, RuntimeError, OSError) as error:
            parser.error(f"--html {args.html}: {error}")
        print(f"{args.html}: the neuron's graph")
    if args.walk or args.html:
        return
    if args.steps < 1:
        parser.error(f"--steps {args.steps} is too small; use 1 or more")
    rng = random.Random(args.seed)
    points, labels = moons(100, rng=rng)
    model = MLP(2, [16, 16, 1], rng=rng)
    print(f"two moons, {len(points)} points; {model.nin}-16-16-1 network, {len(model.parameters())} parameters")
    train(model, points, labels, steps=args.steps)
    print(picture(model, points, labels))


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python writes at exit
        sys.exit(1)
