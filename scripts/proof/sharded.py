"""`--strategy fsdp` on CPUs: sharded runs learn what one process does, and outlive the end of a process.

    python scripts/proof/sharded.py                 # 2 and 4 processes, two minutes
    python scripts/proof/sharded.py --processes 2

For each number of processes, a run is

1. trained for three steps, and resumed for three more with half as many processes;
2. trained until one process is killed in step 5, and resumed from step 3 with half as many; its checkpoints are
   sharded, each process writing its part.

Losses, gradient norms and validation losses must be those of one process without the strategy, and the last
checkpoint must have its weights and optimizer state, under the same names. It is converted and sampled from.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

SIZES = "--model.block-size 16 --model.n-layer 2 --model.n-embd 16 --model.n-head 2 --batch-size 8"
EXACT = "--dtype fp32 --device cpu --warmup-steps 0 --schedule constant --lr 0.01 --save-every 3 --eval-tokens 200"
MODELS = {  # tied and untied heads, buffers, two optimizers
    "gpt2": f"gpt2 --tokenizer char {SIZES} --micro-batch-size 1",
    "sprout": f"sprout --tokenizer char {SIZES} --sample-every 6",
}
FP32 = """
import pealm_muon.optimizer
from pealm_core import hookimpl
@hookimpl
def pealm_run_start(trainer):
    pealm_muon.optimizer.fast_bf16 = lambda device: False  # its bf16 products make 1e-2 of a difference of 1e-7
"""
KILL = """
import os, signal
from pealm_core import hookimpl
@hookimpl
def pealm_step_end(trainer):
    if trainer.step == 5 and trainer.world.rank == trainer.world.size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def pealm(folder: Path, processes: int, words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command line, with torchrun if there are several processes."""
    torchrun = f"-m torch.distributed.run --standalone --nproc-per-node {processes} --monitor-interval 0.1".split()
    start = [sys.executable, *(torchrun if processes > 1 else []), "-m", "pealm", "--plugin", "fp32.py"]
    (folder / "fp32.py").write_text(FP32)
    command = [*start, *words.split()]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PEALM_CACHE": str(folder / "cache")}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def done(folder: Path, processes: int, words: str) -> str:
    """Run a command line that must succeed; return what it printed."""
    result = pealm(folder, processes, words)
    if result.returncode:
        raise SystemExit(f"FAILED: pealm {words}\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result.stdout


def rows(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of the steps."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][1:]


def difference(one: Path, other: Path) -> float:
    """Return the largest relative difference of metrics and tensors. Raises SystemExit for other names or steps."""
    largest = 0.0
    if [row["step"] for row in rows(other)] != [1, 2, 3, 4, 5, 6]:
        raise SystemExit(f"FAILED: {other} has the steps {[row['step'] for row in rows(other)]}")
    for a, b in zip(rows(one), rows(other), strict=True):
        for key in ("loss", "grad_norm", *(["val_loss"] if a["step"] == 6 else [])):
            largest = max(largest, abs(a[key] - b[key]) / abs(a[key]))
    for name in ("model.safetensors", "optimizer.safetensors"):
        own, theirs = (load_file(run / "checkpoints" / "step-00000006" / name) for run in (one, other))
        if own.keys() != theirs.keys():
            raise SystemExit(f"FAILED: {other}: {name} has other tensors: {sorted(own.keys() ^ theirs.keys())}")
        for key, tensor in own.items():
            scale = tensor.float().abs().max().clamp_min(1e-6)
            largest = max(largest, float((tensor.float() - theirs[key].float()).abs().max() / scale))
    return largest


def prove(folder: Path, model: str, processes: list[int]) -> bool:
    """Train and compare; print a line for each run."""
    words, fsdp = f"{MODELS[model]} --input.text book.txt {EXACT}", "--strategy fsdp"
    parts = f"{fsdp} --strategy.checkpoints sharded"
    done(folder, 1, f"train {words} --steps 6 --out {model}-1")
    fine = True
    for count in processes:
        resumed, killed, fewer = f"{model}-{count}", f"{model}-{count}-killed", count // 2
        done(folder, count, f"train {words} {fsdp} --steps 3 --out {resumed}")
        done(folder, fewer, f"train --out {resumed} --steps 6")
        result = pealm(folder, count, f"--plugin kill.py train {words} {parts} --steps 6 --out {killed}")
        if not result.returncode or len(rows(folder / killed)) > 5:
            raise SystemExit(f"FAILED: a killed process did not end the run: {result.returncode}")
        done(folder, 1, f"convert {killed} {killed}-converted --from sharded")
        done(folder, 1, f"sample --ckpt {killed}-converted -n 5")
        if "step-00000003" not in done(folder, fewer, f"train --out {killed} {fsdp} --strategy.checkpoints full"):
            raise SystemExit(f"FAILED: {killed} was not resumed from step 3")
        for what, run in ((f"{count} processes, then {fewer}", resumed), (f"one of {count} killed", killed)):
            away = difference(folder / f"{model}-1", folder / run)
            verdict = "ok" if away < 1e-3 else "FAILED"
            fine &= verdict == "ok"
            print(f"{verdict} {model}: {what}: at most {away:.1e} from one process", flush=True)
        done(folder, 1, f"convert {resumed} {resumed}-converted")
        done(folder, 1, f"sample --ckpt {resumed}-converted -n 5")
    return fine


def main() -> None:
    """Parse the command line; exit with 1 if a run differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="sharded-") as name:
        folder = Path(name)
        (folder / "book.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
        (folder / "kill.py").write_text(KILL)
        results = [prove(folder, model, options.processes) for model in options.models]
    raise SystemExit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
