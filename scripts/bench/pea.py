"""Time pea beside micrograd, in one process and in turns, and say where pea's time goes.

    python scripts/bench/pea.py            # half a minute
    python scripts/bench/pea.py --quick    # seconds: the same, on a smaller scale

All times are medians, and every ratio is of numbers from this run:

- step: the demo of micrograd's README: an MLP 2-16-16-1 on 100 points of two moons, hinge loss plus L2, SGD
  with a falling rate. Both start from the same weights, then train on their own; losses must agree to 1e-9.
- chain: `x = x * w + b` over and over, of which both make the very same nodes, and its memory a node.
- floor: the step's gradients by formulas written out for this one network, on lists of floats: what the same
  multiplications cost in plain Python without a graph. It must find the same gradients to 1e-9.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from operator import mul
from pathlib import Path
from statistics import median
from typing import Any

# This file is called pea.py as well: from its own folder `import pea` would find it instead of the package.
if (here := str(Path(__file__).resolve().parent)) in sys.path:
    sys.path.remove(here)

import micrograd.engine  # type: ignore[import-untyped]
import micrograd.nn  # type: ignore[import-untyped]

import pea
from pea.__main__ import moons

ALPHA = 1e-4  # of the L2 term
Vectors = Sequence[Sequence[float]]


def micrograd_loss(model: Any, points: Vectors, labels: Sequence[int]) -> Any:
    """The demo's loss, word for word."""
    inputs = [list(map(micrograd.engine.Value, row)) for row in points]
    scores = list(map(model, inputs))
    losses = [(1 + -y * score).relu() for y, score in zip(labels, scores, strict=True)]
    data_loss = sum(losses) * (1.0 / len(losses))
    return data_loss + ALPHA * sum(p * p for p in model.parameters())


def pea_loss(model: pea.nn.MLP, points: Vectors, labels: Sequence[int]) -> pea.Value:
    """The same, with sums as single nodes."""
    scores = [model(row) for row in points]
    losses = [(1 + -y * score).relu() for y, score in zip(labels, scores, strict=True)]
    params = model.parameters()
    return pea.sum(losses) * (1.0 / len(losses)) + ALPHA * pea.dot(params, params)


def by_hand(layers: list[tuple[list[list[float]], list[float]]], points: Vectors, labels: Sequence[int]) -> Any:
    """The same gradients without a graph: weights in, gradients in the same shape out."""
    *hidden, (last_w, last_b) = layers
    grads = [([[2 * ALPHA * w for w in row] for row in ws], [2 * ALPHA * b for b in bs]) for ws, bs in layers]
    for x, y in zip(points, labels, strict=True):
        acts = [x]
        for ws, bs in hidden:
            sums = [sum(map(mul, w, acts[-1]), b) for w, b in zip(ws, bs, strict=True)]
            acts.append([s if s > 0 else 0.0 for s in sums])
        if 1 - y * sum(map(mul, last_w[0], acts[-1]), last_b[0]) <= 0:
            continue  # beyond the margin: no loss, no gradient
        flow = [-y / len(points)]
        for (ws, _), (dws, dbs), a in zip(reversed(layers), reversed(grads), reversed(acts), strict=True):
            behind = [0.0] * len(a)
            for j, d in enumerate(flow):
                if d:
                    dbs[j] += d
                    dws[j] = [dw + d * v for dw, v in zip(dws[j], a, strict=True)]
                    behind = [f + d * w for f, w in zip(behind, ws[j], strict=True)]
            flow = [f if v > 0 else 0.0 for f, v in zip(behind, a, strict=True)]
    return grads


def plain(model: pea.nn.MLP) -> list[tuple[list[list[float]], list[float]]]:
    """The model's weights as lists of floats."""
    return [
        ([[w.data for w in n.w] for n in layer.neurons], [n.b.data for n in layer.neurons]) for layer in model.layers
    ]


def descend(params: list[Any], k: int) -> None:
    for p in params:
        p.data -= (1.0 - 0.9 * k / 100) * p.grad


def timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = function(*args)
    return result, time.perf_counter() - start


def relative(a: float, b: float) -> float:
    return abs(a - b) / max(abs(a), abs(b), 1e-300)


def bench_step(steps: int) -> None:
    """Train both for `steps`, in turns; then take pea's step apart."""
    points, labels = moons(100, rng=random.Random(1337))
    random.seed(1337)
    theirs = micrograd.nn.MLP(2, [16, 16, 1])
    ours = pea.nn.MLP(2, [16, 16, 1])
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        p.data = float(q.data)

    def step(model: Any, loss: Callable[..., Any], k: int) -> float:
        out = loss(model, points, labels)
        model.zero_grad()
        out.backward()
        descend(model.parameters(), k)
        return float(out.data)

    slow, fast, forward, backward, free, uncollected, floor = ([] for _ in range(7))
    losses = []
    apart = gradients_apart = 0.0
    for k in range(steps):
        gc.collect()  # nobody pays for the other's garbage
        grads, seconds = timed(by_hand, plain(ours), points, labels)
        floor.append(seconds)

        gc.disable()
        out, seconds = timed(pea_loss, ours, points, labels)
        uncollected.append(seconds)
        gc.enable()
        del out
        out, seconds = timed(pea_loss, ours, points, labels)
        forward.append(seconds)
        ours.zero_grad()
        _, seconds = timed(out.backward)
        backward.append(seconds)
        start = time.perf_counter()
        del out
        free.append(time.perf_counter() - start)
        flat = [g for dws, dbs in grads for dw, db in zip(dws, dbs, strict=True) for g in (*dw, db)]
        scale = max(map(abs, flat))
        for p, g in zip(ours.parameters(), flat, strict=True):
            gradients_apart = max(gradients_apart, abs(p.grad - g) / scale)

        gc.collect()
        a, seconds = timed(step, ours, pea_loss, k)
        fast.append(seconds)
        gc.collect()
        b, seconds = timed(step, theirs, micrograd_loss, k)
        slow.append(seconds)
        apart = max(apart, relative(a, b))
        losses.append(a)
    assert apart < 1e-9, f"losses differ by {apart}"
    assert gradients_apart < 1e-9, f"the floor's gradients differ by {gradients_apart}"

    def ms(times: list[float]) -> str:
        return f"{median(times) * 1000:8.2f} ms"

    print(f"step, median of {steps} (loss {losses[0]:.4f} to {losses[-1]:.4f}, apart by at most {apart:.0e})")
    print(f"  micrograd {ms(slow)}")
    ratios = f"{median(slow) / median(fast):.0f} times faster (first step: {slow[0] / fast[0]:.0f})"
    print(f"  pea       {ms(fast)}   {ratios}")
    print(f"    forward {ms(forward)}   without the cycle collector {ms(uncollected)}")
    print(f"    backward{ms(backward)}   first step {backward[0] * 1000:.2f} ms, when every margin is violated")
    print(f"    freeing {ms(free)}")
    print(f"  by hand   {ms(floor)}   the floor; pea takes {median(fast) / median(floor):.1f} times as long")


@contextmanager
def recursion(limit: int) -> Any:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def chain(value: type[Any], n: int) -> Any:
    """Make n nodes, half of them `*` and half `+`."""
    x, w, b = value(1.0), value(0.999), value(0.1)
    for _ in range(n // 2):
        x = x * w + b
    return x


def chain_step(value: type[Any], n: int) -> float:
    out = chain(value, n)
    out.backward()
    return float(out.data)


def chain_bytes(value: type[Any], n: int) -> float:
    """Measure the memory a node holds, its gradient included."""
    gc.collect()
    tracemalloc.start()
    out = chain(value, n)
    out.backward()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del out
    return held / n


def bench_chain(n: int, repeats: int) -> None:
    theirs, ours = micrograd.engine.Value, pea.Value
    slow, fast = [], []
    with recursion(n + 1000):  # micrograd recurses
        for _ in range(repeats):
            gc.collect()
            a, seconds = timed(chain_step, ours, n)
            fast.append(seconds)
            gc.collect()
            b, seconds = timed(chain_step, theirs, n)
            slow.append(seconds)
            assert relative(a, b) < 1e-9
        big, small = chain_bytes(theirs, n), chain_bytes(ours, n)
    print(f"chain of {n} nodes, forward, backward and freeing, median of {repeats}")
    print(f"  micrograd {median(slow) / n * 1e9:8.0f} ns a node {big:8.0f} bytes a node")
    print(f"  pea       {median(fast) / n * 1e9:8.0f} ns a node {small:8.0f} bytes a node")
    print(f"  ratio     {median(slow) / median(fast):8.1f} {big / small:22.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps and a shorter chain")
    quick = parser.parse_args().quick
    bench_step(2 if quick else 15)
    bench_chain(2_000 if quick else 20_000, 2 if quick else 15)


if __name__ == "__main__":
    main()
