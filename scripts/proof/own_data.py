"""Own data from text to two models that share a tokenizer: the same from .jsonl and from .parquet.

    python scripts/proof/own_data.py TEXT [--megabytes 60]

Makes documents from a real text, which is repeated with changes until it has enough, and writes them to a .jsonl and
to a .parquet file. Learns a BPE of 8,000 tokens on the .jsonl and tokenizes it in parallel; a small gpt2 and a sprout
train on the shards with that tokenizer, on two processes. The .parquet must give the same shards, and so must one
worker. Prints times and sizes, and ends with status 1 if a check fails. If others use the machine, compare the CPU
time: two workers that need as much of it as one take half the time on two free cores.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from pealm_core import load

DOCUMENT = 3000  # characters, about
SMALL = ["--model.n-layer", "2", "--model.n-head", "2", "--model.n-embd", "64", "--model.block-size", "128"]


def documents(text: str, size: int) -> Iterator[str]:
    """Yield documents of `size` bytes in all: pieces of the text, in every turn with other numbers in them."""
    turn = 0
    while True:
        changed = text.replace(" the ", f" the {turn} ") if turn else text
        for start in range(0, len(changed), DOCUMENT):
            document = changed[start : start + DOCUMENT]
            yield document
            size -= len(document.encode())
            if size <= 0:
                return
        turn += 1


def run(*words: object) -> str:
    """Run a command of pealm and return its time: by the clock, and of all CPUs. Raises CalledProcessError."""
    start, cpu = time.perf_counter(), cpu_seconds()
    subprocess.run([sys.executable, "-m", "pealm", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return f"{time.perf_counter() - start:.1f} s ({cpu_seconds() - cpu:.1f} s of CPU)"


def cpu_seconds() -> float:
    """Return the CPU time of all processes below this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train(model: str, shards: Path, out: Path, steps: int) -> float:
    """Train on two processes and return the seconds."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "pealm"]
    options = ["--steps", steps, "--batch-size", 16, "--eval-tokens", 20_000, "--warmup-steps", max(1, steps // 20)]
    options += ["--lr", 0.002] if model == "gpt2" else []
    words = ["train", model, "--input.npy-shards", shards, *SMALL, *options, "--out", out]
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *map(str, words)], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files but meta.json, which names the input."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "meta.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def prove(text: Path, folder: Path, megabytes: float, vocabulary: int, steps: int) -> bool:
    """Do all of it in a folder. Returns whether every check holds."""
    texts = list(documents(text.read_text(encoding="utf-8"), round(megabytes * 1e6)))
    jsonl, parquet = folder / "docs.jsonl", folder / "docs.parquet"
    with jsonl.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": one}, ensure_ascii=False) + "\n" for one in texts)
    pq.write_table(pa.table({"text": texts}), parquet, row_group_size=1000)
    print(f"{len(texts):,} documents: {jsonl.name} {jsonl.stat().st_size / 1e6:.1f} MB, "
          f"{parquet.name} {parquet.stat().st_size / 1e6:.1f} MB")  # fmt: skip
    bpe = ["--tokenizer", "bpe", "--tokenizer.vocab-size", vocabulary]
    shards = folder / "shards"
    seconds = run("tokenize", "--input.records", jsonl, *bpe, "--out", shards, "--workers", 2)
    meta = json.loads((shards / "meta.json").read_text())
    tokens = sum(split["tokens"] for split in meta["splits"].values())
    print(f"a BPE of {vocabulary:,} learned and {tokens:,} tokens in {seconds} with 2 workers")
    known = ["--tokenizer-dir", shards]
    again = {
        "1 worker": run("tokenize", "--input.records", jsonl, *known, "--out", folder / "one", "--workers", 1),
        "2 workers": run("tokenize", "--input.records", jsonl, *known, "--out", folder / "two", "--workers", 2),
        ".parquet": run("tokenize", "--input.records", parquet, *known, "--out", folder / "columns", "--workers", 2),
    }
    print("with that tokenizer: " + ", ".join(f"{name} {seconds}" for name, seconds in again.items()))
    first = files(shards)
    checks = {f"{name}: the same shards": files(folder / name) == first for name in ("one", "two", "columns")}
    vocabulary_files = files(shards / "tokenizer")
    for model in ("gpt2", "sprout"):
        out = folder / model
        took = train(model, shards, out, steps)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        curve = [row["val_loss"] for row in rows if row.get("val_loss") is not None]
        print(f"{model}: {steps} steps on 2 processes in {took:.1f} s, ", end="")
        print(f"validation loss {curve[0]:.3f} -> {curve[-1]:.3f}")
        checks[f"{model}: learned something"] = curve[-1] < curve[0] - 0.1
        checks[f"{model}: the tokenizer of the shards"] = files(out / "best" / "tokenizer") == vocabulary_files
    one, other = (load(folder / model).tokenizer for model in ("gpt2", "sprout"))
    sample = texts[0][:500]
    same = np.array_equal(one.encode(sample), other.encode(sample)) and one.decode(one.encode(sample)) == sample
    checks["both models encode a text alike"] = bool(same)
    for name, holds in checks.items():
        print(f"{'ok' if holds else 'FAILED':<8}{name}")
    return all(checks.values())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--megabytes", type=float, default=60, help="of the .jsonl [60]")
    parser.add_argument("--vocabulary", type=int, default=8000, help="tokens of the BPE [8,000]")
    parser.add_argument("--steps", type=int, default=100, help="of each training run [100]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        sys.exit(not prove(args.text, Path(name), args.megabytes, args.vocabulary, args.steps))


if __name__ == "__main__":
    main()
