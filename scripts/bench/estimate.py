"""`pealm estimate` against what `pealm train` then measures: tokens/s and memory at its peak.

    python scripts/bench/estimate.py                    # two models, some minutes on one core
    python scripts/bench/estimate.py --toy

Each round estimates, then trains; a ratio is the estimate through the measurement of the same round. Memory is the
largest resident size of the training process beyond that of one with a model of no size.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIZES = "--model.n-layer {} --model.n-embd {} --model.n-head {} --model.block-size {} --batch-size {}"
GPT2 = f"gpt2 --tokenizer char {SIZES}"
MODELS = {
    "gpt2": GPT2.format(4, 256, 4, 256, 8),
    "llama": "llama --tokenizer char --model.n-layer 4 --model.n-embd 256 --model.n-head 4 --model.n-kv-head 2 "
    "--model.block-size 512 --batch-size 4",
}
TOY, NOTHING = GPT2.format(2, 64, 2, 64, 8), GPT2.format(1, 8, 1, 8, 1)
CPU_TIME = False
RUN = "--input.text book.txt --eval-every 0 --eval-tokens 256 --device cpu"


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


def round_of(folder: Path, words: str, steps: int, base: int) -> dict[str, tuple[float, float]]:
    """Return (estimate, measurement) of speed and memory."""
    vocabulary = len(set((folder / "book.txt").read_text()))
    text, _ = pealm(folder, f"estimate {words} --vocab-size {vocabulary} --device cpu --steps {steps} --json")
    facts: dict[str, Any] = json.loads(text)
    run = folder / f"run-{len(list(folder.glob('run-*')))}"
    _, resident = pealm(folder, f"train {words} {RUN} --steps {steps} --out {run}")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][2:]
    speed = statistics.median(row["tokens_per_second"] for row in rows)
    total = facts["memory"][str(facts["micro_batch_size"])]["total"]
    return {"tokens/s": (facts["tokens_per_second"], speed), "MB": (total / 1e6, (resident - base) / 1e6)}


def main() -> None:
    """Print a line for each model and quantity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
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
        (folder / "book.txt").write_text("the quick brown fox jumps over the lazy dog. " * 2000)
        _, base = pealm(folder, f"train {NOTHING} {RUN} --steps 2 --out {folder / 'nothing'}")
        for model, words in models.items():
            rounds = [
                round_of(folder, words, options.steps, base) for _ in range(1 if options.toy else options.rounds)
            ]
            for what in ("tokens/s", "MB"):
                ratios = sorted(one / other for one, other in (each[what] for each in rounds))
                estimated, measured = (statistics.median(each[what][place] for each in rounds) for place in (0, 1))
                print(
                    f"{model:<6} {what:<9} estimated {estimated:>9,.0f}  measured {measured:>9,.0f}  "
                    f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
