"""What each technique of sprout is worth: the loss after the same seconds and after the same tokens.

    python scripts/bench/ablate.py TINYSHAKESPEARE [--seconds 20] [--steps 250] [--seeds 3] [--out FOLDER]
    python scripts/bench/ablate.py --talk STORIES [--steps 250] [--seeds 3] [--out FOLDER]

Each run is `pealm train sprout --preset cpu` with one thing changed, on the first nine tenths of the text, of which
it holds back the last tenth; the windows on which results are reported are not looked at. As many runs as there are
cores go side by side, a thread each. A row gives the mean over the seeds, the spread (half of highest less lowest),
and what the change costs in nats per character: above zero, the preset is better without the change.

With --talk instead what each part of fine-tuning on conversations is worth: STORIES is a sprout that was trained on
the kindergarten's stories. Each run is `pealm train sprout --preset chat --init STORIES
--input.kindergarten-questions` with one thing changed; a row gives the answers that are exactly right, those rightly
and wrongly declined, and the stories that are accepted, in percent.
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
from typing import Any

import torch

import pealm_core

CHANGES = {
    "as it is": "",
    "no n-grams": "--model.ngram 1",
    "pairs only": "--model.ngram 2",
    "pairs and triples only": "--model.ngram 3",
    "no dropout of n-grams": "--model.ngram-dropout 0",
    "no head for the token after the next": "--model.ahead 0",
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
    "steady rate, then linear decay": "--schedule wsd --schedule.min-lr-ratio 0",
    "cosine schedule": "--schedule cosine --schedule.min-lr-ratio 0.1",
    "AdamW": "--optimizer adamw --lr 0.003",
}


TALK = {  # the dataset, what else changes, and the initial weights
    "as it is": ("kindergarten-questions", "", "STORIES"),
    "every token learned": ("kindergarten-questions", "--input.learn everything", "STORIES"),
    "windows, not packed rows": ("windows", "", "STORIES"),
    "no stories among the questions": ("kindergarten-questions", "--input.retold 0", "STORIES"),
    "not trained on stories before": ("kindergarten-questions", "", "UNTRAINED"),
}
SCORES = {
    "exactly right": "kindergarten-questions",
    "unanswerable, declined": "kindergarten-questions",
    "answerable, wrongly declined": "kindergarten-questions",
    "stories accepted": "kindergarten",
}
PLUGIN = Path(__file__).parent / "talk_variants.py"


def pealm(*words: object) -> None:
    """Run a command on one thread; ends this process if it fails."""
    command = [sys.executable, "-m", "pealm", "--plugin", str(PLUGIN), *map(str, words)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def train(text: Path, folder: Path, words: list[str]) -> float:
    """The loss at the end of a run on one thread."""
    fixed = ["--eval-every", "0", "--save-every", "0", "--eval-tokens", "100000", "--out", folder]
    pealm("train", "sprout", "--preset", "cpu", "--input.text", text, *fixed, *words)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return float([row["val_loss"] for row in rows if "val_loss" in row][-1])


def talk(change: str, init: Path, folder: Path, words: list[str], count: int) -> list[float]:
    """The scores of a fine-tuned model. count: of questions and of stories."""
    dataset, options, _ = TALK[change]
    fixed = ["--model.block-size", "160", "--eval-every", "0", "--save-every", "0", "--out", folder]
    varied = [*words, f"--input.{dataset}", *options.split()]
    pealm("train", "sprout", "--preset", "chat", "--init", init, *fixed, *varied)
    found = {}
    for name, size in (("kindergarten-questions", "questions"), ("kindergarten", "stories")):
        output = folder / f"{name}.json"
        pealm("eval", "--ckpt", folder, "--on", name, f"--eval.{size}", count, "--output", output)
        found[name] = json.loads(output.read_text())["metrics"]
    return [100 * float(found[name][score]["value"]) for score, name in SCORES.items()]


def untrained(stories: Path, folder: Path) -> Path:
    """The model of a checkpoint with new weights and its tokenizer, as a checkpoint."""
    torch.manual_seed(0)
    saved = pealm_core.read_checkpoint(stories)
    model: Any = pealm_core.load(stories, device="cpu").model
    fresh = type(model)(model.config).state_dict()
    pealm_core.write_checkpoint(folder, model=fresh, config=saved.config, tokenizer=saved.tokenizer)
    return folder


def ablate_talk(given: argparse.Namespace) -> None:
    """Fine-tune as often as there are changes and seeds, and print the table."""
    found: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count() or 1) as runs:
        weights = {"STORIES": given.talk, "UNTRAINED": untrained(given.talk, Path(name) / "untrained")}
        waiting = []
        for number, (seed, change) in enumerate(product(range(1, given.seeds + 1), TALK)):
            words = ["--steps", str(given.steps), "--seed", str(seed), *given.train.split()]
            where = (weights[TALK[change][2]], Path(name) / f"{number}")
            waiting.append((change, runs.submit(talk, change, *where, words, given.count)))
        for change, run in waiting:
            found.setdefault(change, []).append(run.result())
    print(f"{given.seeds} seeds; {given.steps:,} steps; {given.count} questions and {given.count} stories; percent")
    print(f"{'':32}" + "".join(f"{score.replace('answerable, ', ''):>22}" for score in SCORES))
    rows = []
    for change, scores in found.items():
        columns = [(statistics.mean(column), (max(column) - min(column)) / 2) for column in zip(*scores, strict=True)]
        print(f"{change:32}" + "".join(f"{f'{mean:.1f} ± {spread:.1f}':>22}" for mean, spread in columns))
        rows += [
            [change, score, f"{mean:.2f}", f"{spread:.2f}"]
            for score, (mean, spread) in zip(SCORES, columns, strict=True)
        ]
    write(given.out, ["change", "score", "percent", "spread"], rows)


def write(folder: Path | None, head: list[str], rows: list[list[str]]) -> None:
    """Write ablate.csv, if a folder was named."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "ablate.csv").open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows])


def main() -> None:
    """Run, print the table, write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?", help="tinyshakespeare.txt")
    parser.add_argument("--talk", type=Path, metavar="STORIES", help="a run or checkpoint, for the other table")
    parser.add_argument("--seconds", type=float, default=20, help="of training for the one column")
    parser.add_argument("--steps", type=int, default=250, help="of training for the other")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for ablate.csv")
    parser.add_argument("--count", type=int, default=200, help="with --talk: questions and stories to score")
    parser.add_argument("--train", default="", metavar="OPTIONS", help="with --talk: more options of `pealm train`")
    given = parser.parse_args()
    if (given.text is None) == (given.talk is None):
        parser.error("name either a text or, with --talk, a model of stories")
    if given.talk:
        ablate_talk(given)
        return
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
    print(f"{'':32}{'same seconds':>28}{'same tokens':>28}")
    rows = []
    for change in CHANGES:
        cells = []
        for budget in budgets:
            losses, base = found[change, budget], statistics.mean(found["as it is", budget])
            mean, spread = statistics.mean(losses), (max(losses) - min(losses)) / 2
            cells.append(f"{mean:.4f} ± {spread:.4f} ({mean - base:+.4f})")
            rows.append([change, budget, f"{mean:.4f}", f"{spread:.4f}", f"{mean - base:.4f}"])
        print(f"{change:32}{cells[0]:>28}{cells[1]:>28}")
    write(given.out, ["change", "same", "loss", "spread", "worse_by"], rows)


if __name__ == "__main__":
    main()
