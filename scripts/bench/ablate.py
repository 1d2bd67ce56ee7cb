"""What each technique of sprout is worth: the loss after the same seconds and after the same tokens.

    python scripts/bench/ablate.py TINYSHAKESPEARE [--seconds 20] [--steps 250] [--seeds 3] [--out FOLDER]

Each run is `pealm train sprout --preset cpu` with one thing changed, on the first nine tenths of the text, of which
it holds back the last tenth; the windows on which results are reported are not looked at. As many runs as there are
cores go side by side, a thread each. A row gives the mean over the seeds, the spread (half of highest less lowest),
and what the change costs in nats per character: above zero, the preset is better without the change.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

CHANGES = {
    "as it is": "",
    "no n-grams": "--model.ngram 1",
    "pairs only": "--model.ngram 2",
    "no decay of matrices": "--optimizer.weight-decay 0",
    "no decay of tables": "--optimizer.adam-decay 0",
    "learned positions": "--model.rotary false",
    "no QK-norm": "--model.qk-norm false",
    "2.5 times the rate": "--lr 0.05",
    "the same, no QK-norm": "--lr 0.05 --model.qk-norm false",
    "GELU": "--model.squared-relu false",
    "small random projections": "--model.zero-init false",
    "tied head": "--model.untied false",
    "logit soft-cap 15": "--model.softcap 15",
    "value residual": "--model.value-residual true",
    "skip from the embedding": "--model.embedding-skip true",
    "cosine schedule": "--schedule cosine --schedule.min-lr-ratio 0.1",
    "AdamW": "--optimizer adamw --lr 0.003",
}


def train(text: Path, folder: Path, words: list[str]) -> float:
    """The loss at the end of a run on one thread."""
    command = [sys.executable, "-m", "pealm", "train", "sprout", "--preset", "cpu", "--input.text", str(text)]
    command += ["--eval-every", "0", "--save-every", "0", "--eval-tokens", "100000", "--out", str(folder), *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return float([row["val_loss"] for row in rows if "val_loss" in row][-1])


def main() -> None:
    """Run, print the table, write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="tinyshakespeare.txt")
    parser.add_argument("--seconds", type=float, default=20, help="of training for the one column")
    parser.add_argument("--steps", type=int, default=250, help="of training for the other")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for ablate.csv")
    given = parser.parse_args()
    budgets = {"seconds": ["--max-seconds", str(given.seconds)], "tokens": ["--steps", str(given.steps)]}
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count() or 1) as runs:
        text, data = Path(name) / "train.txt", given.text.read_text(encoding="utf-8")
        text.write_text(data[: len(data) * 9 // 10], encoding="utf-8")
        waiting = {
            (change, budget, seed): runs.submit(
                train, text, Path(name) / f"{i}", [*CHANGES[change].split(), *budgets[budget], "--seed", str(seed)]
            )
            for i, (seed, budget, change) in enumerate(product(range(1, given.seeds + 1), budgets, CHANGES))
        }
        for (change, budget, _), run in waiting.items():
            found.setdefault((change, budget), []).append(run.result())
    print(f"{given.seeds} seeds; {given.seconds:g} s; {given.steps:,} steps of 2,048 characters; nats per character")
    print(f"{'':26}{'same seconds':>28}{'same tokens':>28}")
    rows = []
    for change in CHANGES:
        cells = []
        for budget in budgets:
            losses, base = found[change, budget], statistics.mean(found["as it is", budget])
            mean, spread = statistics.mean(losses), (max(losses) - min(losses)) / 2
            cells.append(f"{mean:.4f} ± {spread:.4f} ({mean - base:+.4f})")
            rows.append([change, budget, f"{mean:.4f}", f"{spread:.4f}", f"{mean - base:.4f}"])
        print(f"{change:26}{cells[0]:>28}{cells[1]:>28}")
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        with (given.out / "ablate.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["change", "same", "loss", "spread", "worse_by"], *rows])


if __name__ == "__main__":
    main()
