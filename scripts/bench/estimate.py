"""`pealm estimate` against what `pealm train` then measures: tokens/s and memory at its peak.

    python scripts/bench/estimate.py                    # eight models in two dtypes, one round of each
    python scripts/bench/estimate.py --models gpt2 llama --dtypes bf16 --rounds 3
    python scripts/bench/estimate.py --toy

Each round estimates, then trains; a ratio is the estimate through the measurement of the same round. Memory is the
largest resident size of the training process beyond that of one with a tiny model of the same dtype, which has loaded
the same libraries. That of large tensors (`gpt2-vocab`: 33 MB of logits) differs by a third between equal runs, since
the allocator now and then finds no gap for one of them.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIZES = (
    "{} --tokenizer char --model.n-layer {} --model.n-embd {} --model.n-head {} --model.block-size {} "
    "--batch-size {} --micro-batch-size {}"
).format
MODELS = {  # command line and characters of the vocabulary
    "gpt2": (SIZES("gpt2", 4, 256, 4, 256, 8, 8), 28),
    "gpt2-wide": (SIZES("gpt2", 2, 512, 8, 128, 12, 4), 28),
    "gpt2-vocab": (SIZES("gpt2", 3, 192, 6, 64, 16, 16), 8000),
    "llama": (SIZES("llama", 4, 256, 4, 512, 4, 4) + " --model.n-kv-head 2", 28),
    "llama-deep": (SIZES("llama", 10, 160, 5, 192, 6, 3) + " --model.n-kv-head 1", 2000),
    "sprout": (SIZES("sprout", 4, 128, 4, 128, 32, 32), 500),
    "sprout-ngram": (SIZES("sprout", 6, 320, 4, 256, 4, 2) + " --model.ngram 2", 3000),
    "char-transformer": (SIZES("char-transformer", 4, 192, 6, 128, 24, 24), 100),
}
TOY, NOTHING = (SIZES("gpt2", 2, 64, 2, 64, 8, 8), 28), SIZES("gpt2", 1, 64, 2, 64, 4, 4)
CPU_TIME = False
RUN = "--eval-every 0 --eval-tokens 256 --device cpu"


def pealm(folder: Path, words: str) -> tuple[str, int]:
    """Run a command line; return what it printed and its largest resident size in bytes."""
    clock = "time.perf_counter = time.process_time; " if CPU_TIME else ""
    code = f"import sys, time; {clock}from pealm_core.cli import main; main(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words.split()],
        cwd=folder,
        env={**os.environ, "PEALM_CACHE": str(folder / "cache"), "PEALM_DISABLE_PLUGINS": "report"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"pealm {words}: exit code {process.returncode}")
    return text, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def book(folder: Path, vocabulary: int) -> Path:
    """Write a text with so many different characters."""
    path = folder / f"book-{vocabulary}.txt"
    alphabet = [chr(0x4E00 + number) for number in range(vocabulary)]
    path.write_text("".join([*alphabet, *random.Random(1).choices(alphabet, k=80_000)]))
    return path


def round_of(folder: Path, words: str, vocabulary: int, steps: int, base: int) -> dict[str, tuple[float, float]]:
    """Return (estimate, measurement) of speed and memory."""
    text, _ = pealm(folder, f"estimate {words} --vocab-size {vocabulary} --device cpu --steps {steps} --json")
    facts: dict[str, Any] = json.loads(text)
    run = folder / f"run-{len(list(folder.glob('run-*')))}"
    data = book(folder, vocabulary)
    _, resident = pealm(folder, f"train {words} --input.text {data} {RUN} --steps {steps} --out {run}")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][2:]
    speed = statistics.median(row["tokens_per_second"] for row in rows)
    total = facts["memory"][str(facts["micro_batch_size"])]["total"]
    return {"tokens/s": (facts["tokens_per_second"], speed), "MB": (total / 1e6, (resident - base) / 1e6)}


def main() -> None:
    """Print a line for each model and quantity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--toy", action="store_true", help="one round of a tiny model")
    parser.add_argument(
        "--cpu-time", action="store_true", help="time of one core instead of the clock, for busy machines"
    )
    options = parser.parse_args()
    if options.cpu_time:
        global CPU_TIME
        CPU_TIME = True
        os.environ["OMP_NUM_THREADS"] = "1"
    models = {"toy": TOY} if options.toy else {name: MODELS[name] for name in options.models}
    with tempfile.TemporaryDirectory(prefix="estimate-") as name:
        folder = Path(name)
        for dtype in options.dtypes[:1] if options.toy else options.dtypes:
            nothing = f"{NOTHING} --dtype {dtype} --input.text {book(folder, 28)} {RUN}"
            _, base = pealm(folder, f"train {nothing} --steps 2 --out {folder / f'nothing-{dtype}'}")
            for model, (words, vocabulary) in models.items():
                words = f"{words} --dtype {dtype}"
                rounds = [
                    round_of(folder, words, vocabulary, options.steps, base)
                    for _ in range(1 if options.toy else options.rounds)
                ]
                show(f"{model} {dtype}", rounds)


def show(name: str, rounds: list[dict[str, tuple[float, float]]]) -> None:
    """Print a line for each quantity."""
    for what in ("tokens/s", "MB"):
        ratios = sorted(one / other for one, other in (each[what] for each in rounds))
        estimated, measured = (statistics.median(each[what][place] for each in rounds) for place in (0, 1))
        print(
            f"{name:<21} {what:<9} estimated {estimated:>9,.0f}  measured {measured:>9,.0f}  "
            f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
