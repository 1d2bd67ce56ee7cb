"""How fast GPT-2 trains, beside what the device can do and beside transformers.

    python scripts/bench/train.py                                        # a GPU: 124M, 64 x 1024 tokens a step
    python scripts/bench/train.py --device cpu --against transformers    # 4 layers, 256 wide, 4 x 256 tokens a step

Trains on random tokens with pealm's trainer, in a process of its own, and times blocks of steps after warming up. In
the same run it measures how fast the device multiplies matrices (bf16 on GPUs that have it, else fp32; before and
after, the better one counts) and copies memory. With `--against transformers` a plain PyTorch loop over
GPT2LMHeadModel trains at the same shape in another process: on a CPU in turns with pealm's, on a GPU after it.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pealm_gpt2.plugin import SIZES

WORKER = Path(__file__).with_name("train_worker.py")
SPEED_UPS = ("tf32", "compile", "flash", "prefetch", "onednn", "heap", "gc")
GOAL, GOAL_SHARE = 560_000, 0.6  # tokens/s on one H200 at 64 x 1024, and of the measured peak

# Dense bf16 TFLOP/s with fp32 accumulation, from NVIDIA's data sheets (where those give the figure "with sparsity",
# half of it) and, for GeForce, the appendices of the GA102, Ada and Blackwell white papers. Names end as shown, so
# that a Laptop, Ti or SUPER, with other chips and clocks, is not taken for its namesake.
PUBLISHED = {
    r"GH200.*|H200|H200 SXM.*|H100 SXM.*|H100 80GB HBM3": 989,
    r"H200 NVL|H100 NVL": 835,
    r"H100 PCIe": 756,
    r"B200.*": 2250,
    r"A100.*": 312,
    r"A30": 165,
    r"L40S": 362,
    r"GeForce RTX 3070": 40.6,
    r"GeForce RTX 3090": 71,
    r"GeForce RTX 4090": 165,
    r"GeForce RTX 5090": 209,
}
SHAPES: dict[str, dict[str, Any]] = {
    "cuda": {"n_layer": 12, "n_head": 12, "n_embd": 768, "batch_size": 64, "block_size": 1024, "steps": 100},
    "cpu": {"n_layer": 4, "n_head": 4, "n_embd": 256, "batch_size": 4, "block_size": 256, "steps": 10},
}

# What to multiply and copy, how long each round is and how many. A CPU's rounds are one call each: where others use
# the machine, too, the best of many short ones counts.
PEAK: dict[str, dict[str, Any]] = {
    "cuda": {"squares": [4096, 8192, 16384], "copy": 1 << 30, "seconds": 0.3, "rounds": 6},
    "cpu": {"squares": [1024, 2048], "copy": 1 << 28, "seconds": 0.0, "rounds": 12},
}


def published(name: str) -> float | None:
    """A device's published peak in TFLOP/s, None where it is not in the table.

    >>> published("NVIDIA H200"), published("NVIDIA GeForce RTX 3070 Laptop GPU")
    (989, None)
    """
    short = name.removeprefix("NVIDIA ")
    return next((peak for pattern, peak in PUBLISHED.items() if re.fullmatch(pattern, short)), None)


def parameters(shape: Mapping[str, int]) -> int:
    """N: all parameters but the table of positions and padding. The token embedding counts once: it is the head.

    >>> parameters({"n_layer": 12, "n_embd": 768, "vocab_size": 50257})  # 124,439,808 less 1024 x 768
    123653376
    """
    c = shape["n_embd"]
    block = 12 * c * c + 13 * c  # attention 4 C^2 + 4 C, feed-forward 8 C^2 + 5 C, two norms of 2 C
    return shape["n_layer"] * block + 2 * c + shape["vocab_size"] * c


def flops(shape: Mapping[str, int]) -> int:
    """Floating-point operations a token, forward and backward: 6 N + 12 L H Q T (Chowdhery et al. 2022, appendix B).

    H Q is the width, T the block size. That attention is causal does not count, nor does any recomputation.
    """
    return 6 * parameters(shape) + 12 * shape["n_layer"] * shape["n_embd"] * shape["block_size"]


def traffic(shape: Mapping[str, int], tokens: int, width: int) -> float:
    """Bytes a token that must move between memory and chip, an estimate. width: bytes of an activation.

    A block writes 16 C activations (norms, q, k, v, attention, feed-forward) and reads them once, and the backward
    pass does that twice more: 96 C. Logits are written and read, their gradient written and read twice: 5 V. Weights
    and optimizer: 28 bytes a parameter in AdamW, and 4 for the gradient, 2 widths for both passes, once a step.
    """
    activations = 96 * shape["n_embd"] * shape["n_layer"] + 5 * shape["vocab_size"]
    return width * activations + (32 + 2 * width) * parameters(shape) / tokens


class WorkerError(Exception):
    """A worker did not do its work: it ran out of memory, for instance."""


class Worker:
    """A process that does one thing; answers come one JSON line at a time."""

    def __init__(self, role: str, spec: Mapping[str, Any]) -> None:
        command = [sys.executable, str(WORKER), json.dumps({**spec, "role": role})]
        self.name, self.speed, self.rows = role, "", list[dict[str, Any]]()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def answer(self) -> dict[str, Any]:
        """The next line. Raises WorkerError."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        row: dict[str, Any] = json.loads(line) if line else {"error": "its process ended; see above"}
        if "error" in row:
            self._process.kill()
            self._process.wait()
            raise WorkerError(f"{self.name}: {row['error']}")
        return row

    def turn(self) -> None:
        """One block of steps."""
        assert self._process.stdin
        print("go", file=self._process.stdin, flush=True)
        self.rows.append(self.answer())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def of(self, key: str) -> float:
        """A value's median over the blocks."""
        return float(median(row[key] for row in self.rows))


def measure(roles: Sequence[str], spec: Mapping[str, Any]) -> list[Worker]:
    """Each role's blocks: on a CPU in turns, on a GPU, whose memory may fit but one, after each other.

    Raises WorkerError where the first one fails; another that does is left out, with a word.
    """
    if spec["device"] == "cpu":
        return together(roles, spec)
    done = together(roles[:1], spec)
    for role in roles[1:]:
        try:
            done += together([role], spec)
        except WorkerError as error:
            print(error, file=sys.stderr)
    return done


def together(roles: Sequence[str], spec: Mapping[str, Any]) -> list[Worker]:
    """The blocks of all roles in turns."""
    workers = []
    for role in roles:  # one after the other, so that none warms up beside another
        workers.append(Worker(role, spec))
        workers[-1].speed = workers[-1].answer()["speed"]
        workers[-1].answer()
    for number in range(spec["blocks"]):
        for worker in workers[:: 1 if number % 2 else -1]:
            worker.turn()
    for worker in workers:
        worker.close()
    return workers


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--model", choices=("small", *SIZES), help="a size of GPT-2 [small; on a CPU smaller]")
    for name, help_ in (
        ("n-layer", "blocks"),
        ("n-head", "heads"),
        ("n-embd", "width"),
        ("batch-size", "sequences a step"),
        ("block-size", "tokens a sequence"),
        ("steps", "timed steps, in ten blocks; 0: only measure the device"),
    ):
        parser.add_argument(f"--{name}", type=int, help=help_)
    parser.add_argument("--vocab-size", type=int, default=50257)
    parser.add_argument("--micro-batch-size", type=int, help="sequences in a pass [all]")
    parser.add_argument("--against", choices=("transformers",), help="what to train beside it")
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument(
        "--without", nargs="*", choices=SPEED_UPS, default=[], help="what to leave out, as in pealm train"
    )
    parser.add_argument("--unfused", action="store_true", help="AdamW as many kernels")
    parser.add_argument("--unpadded", action="store_true", help="an embedding of the vocabulary's exact size")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead")
    # What the ladder has measured of the device already.
    parser.add_argument("--measured", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument(
        "--quick", action="store_true", help="only show that it works: a step to warm up, small products"
    )
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = options()
    try:
        run(args)
    except WorkerError as error:
        sys.exit(str(error))


def run(args: argparse.Namespace) -> None:
    """Measure the device, train, measure the device again, report. Raises WorkerError."""
    device, peak_spec = args.measured, {}
    if device is None:
        peak_spec = {"device": args.device, "squares": [256], "copy": 1 << 20, "seconds": 0.0, "rounds": 3}
        device = ask("peak", peak_spec)  # which one it is
        if not args.quick:
            peak_spec |= PEAK[device["device"]]
            device = ask("peak", peak_spec)
    if args.steps == 0:
        print(json.dumps(device) if args.json else "\n".join(f"{a:<14}{b}" for a, b in about(device)))
        return
    spec = resolve(args, device["device"])
    workers = measure(["pealm", *([args.against] if args.against else [])], spec)
    if peak_spec and not args.quick:
        again = ask("peak", peak_spec)
        better = max((device, again), key=lambda each: float(each["flops"]))
        device = {**better, "bandwidth": max(device["bandwidth"], again["bandwidth"])}
    if args.json:
        print(json.dumps(summary(device, spec, workers[0])))
    else:
        report(device, spec, workers)


def ask(role: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The one answer of a worker. Raises WorkerError."""
    worker = Worker(role, spec)
    row = worker.answer()
    worker.close()
    return row


def resolve(args: argparse.Namespace, device: str) -> dict[str, Any]:
    """What to train and how, from the options."""
    defaults = SHAPES[device]
    if args.model is not None:
        size = SIZES.get(args.model, {key: SHAPES["cuda"][key] for key in ("n_layer", "n_head", "n_embd")})
        defaults = defaults | size
    chosen = {key: getattr(args, key) or value for key, value in defaults.items()}
    shape = {key: chosen[key] for key in ("n_layer", "n_head", "n_embd", "block_size")}
    blocks = min(10, chosen["steps"])
    return {
        "device": device,
        "shape": {**shape, "vocab_size": args.vocab_size},
        "batch_size": chosen["batch_size"],
        "micro_batch_size": args.micro_batch_size,
        "warmup": 1 if args.quick else 10 if device == "cuda" else 2,
        "blocks": blocks,
        "block": chosen["steps"] // blocks,
        "dtype": args.dtype,
        "without": args.without,
        "fused": not args.unfused,
        "padded": not args.unpadded,
    }


def summary(device: Mapping[str, Any], spec: Mapping[str, Any], worker: Worker) -> dict[str, Any]:
    """What was measured of one worker. MFU is of the measured peak, memory in bytes."""
    shape, seconds = spec["shape"], worker.of("seconds")
    fast = spec["batch_size"] * shape["block_size"] / seconds
    return {
        "device": device,
        "published": published(device["name"]),
        "spec": spec,
        "speed": worker.speed,
        "seconds_per_step": seconds,
        "cpu_seconds_per_step": worker.of("cpu"),
        "tokens_per_second": fast,
        "flops_per_token": flops(shape),
        "mfu": fast * flops(shape) / device["flops"],
        "memory": max(row["memory"] for row in worker.rows),
    }


def about(device: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The device in lines."""
    known = published(device["name"])
    beside = f"; published {known:g} TFLOP/s (dense bf16)" if known else "; not in the table of published ones"
    squares = f"{device['dtype']}, square products of {device['square']}"
    return [
        ("device", f"{device['name']}, torch {device['torch']}"),
        ("peak", f"{si(device['flops'])}FLOP/s measured ({squares}){beside}"),
        ("memory rate", f"{si(device['bandwidth'])}B/s measured (a copy, read and written)"),
    ]


def report(device: Mapping[str, Any], spec: Mapping[str, Any], workers: Sequence[Worker]) -> None:
    """Print what was measured."""
    ours, shape, tokens = workers[0], spec["shape"], spec["batch_size"] * spec["shape"]["block_size"]
    row, peak = summary(device, spec, ours), device["flops"]
    work, fast, known = row["flops_per_token"], row["tokens_per_second"], row["published"]
    of_known = f", {fast * work / known / 1e10:.1f} % of the published one" if known else ""
    intensity = work / traffic(shape, tokens, 2 if ours.speed.startswith("bf16") else 4)
    ridge, attainable = peak / device["bandwidth"], min(peak, intensity * device["bandwidth"]) / work
    for name, text in (
        *about(device),
        (
            "model",
            f"GPT-2, {shape['n_layer']} layers, {shape['n_head']} heads, {shape['n_embd']} wide, vocabulary "
            f"{shape['vocab_size']:,}; {spec['batch_size']} x {shape['block_size']} tokens a step",
        ),
        (
            "FLOP a token",
            f"6 N + 12 L H Q T = {si(work)}FLOP (PaLM, appendix B); N = {parameters(shape) / 1e6:.1f} million, all "
            f"but positions and padding",
        ),
        ("pealm", ours.speed),
        ("", timing(ours, spec, tokens)),
        ("MFU", f"{100 * row['mfu']:.1f} % of the measured peak{of_known}"),
        (
            "roofline",
            f"{intensity:.0f} FLOP a byte (traffic estimated), ridge at {ridge:.0f}: bound by "
            f"{'compute' if intensity >= ridge else 'memory'}, at most {attainable:,.0f} tokens/s; "
            f"{100 * fast / attainable:.1f} % of it reached",
        ),
        ("peak memory", size(ours)),
    ):
        print(f"{name:<14}{text}")
    aim = {key: value for key, value in SHAPES["cuda"].items() if key != "steps"}
    if device["device"] == "cuda" and aim.items() <= {**shape, "batch_size": spec["batch_size"]}.items():
        met = "met" if fast >= GOAL and row["mfu"] >= GOAL_SHARE else "missed"
        print(f"{'goal':<14}{GOAL:,} tokens/s on one H200 and {100 * GOAL_SHARE:.0f} % of the measured peak: {met}")
    for other in workers[1:]:
        compare(ours, other, spec, tokens)
    if device["device"] == "cpu":
        print(
            f"{'load':<14}{os.getloadavg()[0]:.1f} processes in the last minute; CPU time tells more where others run"
        )


def timing(worker: Worker, spec: Mapping[str, Any], tokens: int) -> str:
    times = sorted(1000 * row["seconds"] for row in worker.rows)
    return (
        f"{tokens / worker.of('seconds'):,.0f} tokens/s: {median(times):,.1f} ms a step, {times[0]:,.1f} to "
        f"{times[-1]:,.1f} (median of {len(times)} blocks of {spec['block']}); "
        f"last loss {worker.rows[-1]['loss']:.3f}"
    )


def size(worker: Worker) -> str:
    last = worker.rows[-1]
    beside = f", {(last['memory'] - last['imports']) / 1e6:,.0f} MB above the imports" if last["imports"] else ""
    return f"{last['memory'] / 1e6:,.0f} MB{beside}"


def compare(ours: Worker, other: Worker, spec: Mapping[str, Any], tokens: int) -> None:
    """Print the other's figures and the ratios."""
    pairs = [b["seconds"] / a["seconds"] for a, b in zip(ours.rows, other.rows, strict=True)]
    cpu = other.of("cpu") / ours.of("cpu")
    print(f"{other.name:<14}{other.speed}")
    print(f"{'':<14}{timing(other, spec, tokens)}")
    print(f"{'peak memory':<14}{size(other)}")
    print(
        f"{'ratio':<14}pealm is {other.of('seconds') / ours.of('seconds'):.3f} times as fast (median of pairs "
        f"{median(pairs):.3f}, by CPU time {cpu:.3f}) and takes "
        f"{ours.rows[-1]['memory'] / other.rows[-1]['memory']:.3f} times the memory (goals: at least 1, at most 1)"
    )


def si(value: float) -> str:
    """A value in three digits with its prefix.

    >>> si(989e12), si(857_000_000), si(123_653_376)
    ('989 T', '857 M', '124 M')
    """
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "


if __name__ == "__main__":
    main()
