"""Does a model of two minutes answer questions about stories? Each goal beside what every seed gave.

    python scripts/bench/talk.py [--seconds 60 60 | --steps 2000 2500] [--seeds 1 3 1337] [--out FOLDER]
        [--first OPTIONS] [--second OPTIONS] [--count 400]

Each seed trains twice, as scripts/quickstart does: on stories with questions, then on questions. Options of `pealm
train` change either run. Steps make results comparable between machines, seconds are what the goal is about. The runs
stay in the folder, and those that are finished are not trained again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FIRST = (
    "--preset reader --input.kindergarten-questions --input.learn everything --input.retold 0.5 "
    "--input.stories 40000 --tokenizer bpe --tokenizer.vocab-size 1280 --dtype fp32 --eval-tokens 20000 --eval-every 0"
)
SECOND = (
    "--preset chat --input.kindergarten-questions --input.questions 5 --input.retold 0.6 --batch-size 8 --dtype fp32 "
    "--eval-tokens 20000 --eval-every 0"
)
GOALS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "exactly right": ("95 at least", lambda percent: percent >= 95),
    "worst kind": ("85 at least", lambda percent: percent >= 85),
    "unanswerable, declined": ("90 at least", lambda percent: percent >= 90),
    "answerable, wrongly declined": ("3 at most", lambda percent: percent <= 3),
    "stories accepted before": ("", lambda percent: True),
    "stories accepted after": ("2 less at most", lambda percent: True),
    "points lost": ("2 at most", lambda points: points <= 2),
}


def pealm(*words: object) -> None:
    """Run a command; end this process if it fails."""
    command = [sys.executable, "-m", "pealm", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def train(folder: Path, seed: int, limit: Sequence[object], words: Sequence[object]) -> int:
    """Train a sprout, unless the folder has a finished run; return its steps."""
    if not (folder / "best").exists():
        pealm("train", "sprout", *words, *limit, "--seed", seed, "--out", folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return max(int(row.get("step", 0)) for row in rows)


def scores(ckpt: Path, name: str, size: str, count: int) -> dict[str, float]:
    """What an evaluation says, in percent."""
    output = ckpt / f"{name}.json"
    pealm("eval", "--ckpt", ckpt, "--on", name, f"--eval.{size}", count, "--output", output)
    metrics: dict[str, Any] = json.loads(output.read_text())["metrics"]
    return {metric: 100 * float(found["value"]) for metric, found in metrics.items()}


def measure(folder: Path, seed: int, given: argparse.Namespace) -> tuple[str, dict[str, float]]:
    """Train twice and evaluate; return a line about the runs, and the scores by the names of GOALS."""
    kind, limits = ("--steps", given.steps) if given.steps else ("--max-seconds", given.seconds)
    first, second = folder / f"{seed}-first", folder / f"{seed}-second"
    steps = [
        train(first, seed, (kind, limits[0]), [*FIRST.split(), *given.first.split()]),
        train(second, seed, (kind, limits[1]), [*SECOND.split(), "--init", first, *given.second.split()]),
    ]
    answers = scores(second, "kindergarten-questions", "questions", given.count)
    before, after = (scores(run, "kindergarten", "stories", given.stories) for run in (first, second))
    kinds = {name.partition(":")[0]: value for name, value in answers.items() if name.endswith(": exactly right")}
    worst = min(kinds, key=lambda name: kinds[name])
    found = {name: answers[name] for name in GOALS if name in answers} | {"worst kind": kinds[worst]}
    found |= {
        "stories accepted before": before["stories accepted"],
        "stories accepted after": after["stories accepted"],
    }
    found["points lost"] = before["stories accepted"] - after["stories accepted"]
    return f"seed {seed}: {steps[0]:,} and {steps[1]:,} steps; worst kind: {worst}", found


def main() -> None:
    """Train, evaluate, print the table; exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs=2, default=(60, 60), help="of either run (default: 60 60)")
    parser.add_argument("--steps", type=int, nargs=2, help="of either run, instead of seconds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3, 1337])
    parser.add_argument("--count", type=int, default=400, help="answerable questions (default: 400)")
    parser.add_argument("--stories", type=int, default=200, help="stories to tell (default: 200)")
    parser.add_argument("--first", default="", metavar="OPTIONS", help="more options of the first run")
    parser.add_argument("--second", default="", metavar="OPTIONS", help="more options of the second run")
    parser.add_argument("--out", type=Path, default=Path("runs/talk"))
    given = parser.parse_args()
    found = []
    for seed in given.seeds:
        line, values = measure(given.out, seed, given)
        print(line, flush=True)
        found.append(values)
    print(f"\n{'percent':32}{'goal':>16}" + "".join(f"{f'seed {seed}':>12}" for seed in given.seeds))
    missed = 0
    for name, (goal, reached) in GOALS.items():
        row = [values[name] for values in found]
        missed += not all(map(reached, row))
        print(f"{name:32}{goal:>16}" + "".join(f"{value:12.1f}" for value in row))
    print(f"{missed} goals missed" if missed else "every goal reached")
    raise SystemExit(missed > 0)


if __name__ == "__main__":
    main()
