"""How fast and with how much memory `pealm tokenize` makes shards, beside tiktoken alone on one thread.

    TIKTOKEN_CACHE_DIR=... python scripts/bench/prepare.py [parquet|jsonl|fineweb|memory|shards ...] [--text TEXT]

parquet, jsonl, fineweb: documents as long as FineWeb's, from a text that is repeated with changes, are tokenized with
GPT-2's encoding and a worker on every core, start-up and disk included. tiktoken alone is timed before and after in
this process, on documents taken evenly from all of them, and then in as many processes side by side as there are
workers: what the machine could give at that time. Prints how many such threads `pealm tokenize` is worth, round by
round, and the median; the goals are 0.93 for each core, and 0.85 for .jsonl. If others use the machine, tokens for a
second of CPU time say more.

memory: one text file of 1 GB; the largest process must stay below 600 MB. shards: a corpus of 10 billion tokens in
1,000 sparse shards is opened and read from; it must need fewer than 64 open files.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import tiktoken

from pealm_core.cli.command_group import pealm

TEXT = Path(__file__).resolve().parents[3] / "shared" / "data" / "tinyshakespeare.txt"
DOCUMENT, GROUP, FILES = 4500, 1000, 2  # characters, rows, files
GOALS = {"parquet": 0.93, "jsonl": 0.85, "fineweb": 0.93}  # for each core
MEMORY, DESCRIPTORS = 600e6, 64


def documents(text: str) -> Iterator[str]:
    """Yield the text over and over in pieces, each time with other numbers in it, so that no document repeats."""
    turn = 0
    while True:
        changed = text.replace(" the ", f" the {turn} ")
        for start in range(0, len(changed), DOCUMENT):
            yield changed[start : start + DOCUMENT]
        turn += 1


def write(folder: Path, kind: str, texts: Iterator[str], rows: int) -> None:
    """Write files with this number of rows in all."""
    schema = pa.schema([("text", pa.string())])
    for number in range(FILES):
        groups = ([next(texts) for _ in range(GROUP)] for _ in range(max(1, rows // FILES // GROUP)))
        if kind == "jsonl":
            with (folder / f"{number:03d}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps({"text": text}) + "\n" for group in groups for text in group)
        else:
            with pq.ParquetWriter(folder / f"{number:03d}.parquet", schema) as parquet:
                for group in groups:
                    parquet.write_table(pa.table({"text": group}, schema))


def alone(texts: list[str]) -> tuple[float, float]:
    """Return the tokens of tiktoken on one thread per second, and per second of CPU time."""
    encoding = tiktoken.get_encoding("gpt2")
    start, cpu = time.perf_counter(), time.process_time()
    tokens = sum(1 + len(encoding.encode_ordinary(text)) for text in texts)
    return tokens / (time.perf_counter() - start), tokens / (time.process_time() - cpu)


def side_by_side(texts: list[str], processes: int) -> float:
    """Return the tokens per second of `alone` in several processes at a time, after a round to warm up."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for _ in range(2):
            rates = [rate for rate, _ in pool.map(alone, [texts] * processes)]
    return sum(rates)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in used)


def tokenize(kind: str, source: Path, out: Path, workers: int, shard_size: int) -> int:
    """Tokenize a folder of files and return the number of tokens."""
    words = ["tokenize", "--tokenizer", "tiktoken", "--out", out, "--workers", workers, "--shard-size", shard_size]
    if kind == "fineweb":
        words += ["--input.fineweb-edu", "--input.source", source, "--input.layout", "build-nanogpt"]
    else:
        words += ["--input.records", source]
    pealm.main([str(word) for word in words], "pealm", standalone_mode=False)
    return sum(path.stat().st_size for path in out.glob("*.npy")) // 2


def speed(kind: str, args: argparse.Namespace, folder: Path) -> None:
    """Measure one format and print."""
    text, rows = args.text.read_text(encoding="utf-8"), args.rows * args.workers
    sample = list(islice(documents(text), 0, rows, max(1, rows // 20_000)))
    goal, ratios, of_cpu, ceilings = GOALS[kind] * min(args.workers, cores()), [], [], []
    source = folder / "source"
    source.mkdir()
    write(source, kind, documents(text), rows)
    before = alone(sample)
    for number in range(args.rounds):
        out = folder / f"out-{number}"
        start, cpu = time.perf_counter(), cpu_seconds()
        tokens = tokenize(kind, source, out, args.workers, 140 * rows)
        seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
        after, ceiling = alone(sample), side_by_side(sample, args.workers)
        shutil.rmtree(out)
        wall, work = ((before[i] + after[i]) / 2 for i in (0, 1))
        ratios.append(tokens / seconds / wall)
        of_cpu.append(tokens / cpu / work)
        ceilings.append(ceiling / wall)
        print(f"\n{'tiktoken alone, one thread':<40}{wall:>12,.0f} tokens/s")
        many = f"the same in {args.workers} processes"
        print(f"{many:<40}{ceiling:>12,.0f} tokens/s, ratio {ceilings[-1]:.2f}")
        what = f"{kind}, {args.workers} workers on {cores()} cores"
        print(f"{what:<40}{tokens / seconds:>12,.0f} tokens/s")
        print(f"{'ratio':<40}{ratios[-1]:>12.2f}, of CPU time {of_cpu[-1]:.2f}", flush=True)
        before = after
    shutil.rmtree(source)
    middle, spread = statistics.median(ratios), max(ratios) - min(ratios)
    print(f"\n{kind + ': median ratio':<40}{middle:>12.2f} (goal {goal:.2f}, spread {spread:.2f}), ", end="")
    print(f"of CPU time {statistics.median(of_cpu):.2f}, of the processes alone {statistics.median(ceilings):.2f}")
    print(f"load of the machine before: {os.getloadavg()[2]:.1f}, now {os.getloadavg()[0]:.1f}\n")


def memory(args: argparse.Namespace, folder: Path) -> None:
    """Tokenize one large text file and print the memory of the largest process."""
    path, wanted = folder / "large.txt", args.megabytes * 1_000_000
    with path.open("w", encoding="utf-8") as file:
        texts, size = documents(args.text.read_text(encoding="utf-8")), 0
        while size < wanted:
            size += file.write(next(texts))
    words = ["tokenize", "--input.text", path, "--tokenizer", "tiktoken", "--out", folder / "shards"]
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'pealm', *sys.argv[1:]], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"  # of the largest process below this one
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    most = int(done.stdout.split()[-1]) * 1024
    path.unlink()
    what = f"{size / 1e6:,.0f} MB in one file: largest process"
    print(f"{what:<40}{most / 1e6:>12,.0f} MB (goal: less than {MEMORY / 1e6:,.0f})\n")


def shards(args: argparse.Namespace, folder: Path) -> None:
    """Open a corpus of sparse shards, read windows from everywhere in it, and print the number of open files."""
    code = (
        "import sys, time, torch\nfrom pathlib import Path\n"
        "from pealm_core.config.resolve_job import plan\nfrom pealm_core import make_datasets, make_tokenizer\n"
        "from pealm_core.data.sources import sources\n"
        "job = plan(('input', 'tokenizer'), words={'input': {'npy-shards': sys.argv[1]}, 'tokenizer': "
        "{'name': 'tiktoken'}})\nstart = time.perf_counter()\ndatasets = make_datasets(job)\n"
        "data = sources(job, datasets, make_tokenizer(job), 1024, 1)\nopened = time.perf_counter() - start\n"
        "data.train.rows(range(4096))\nfds = len(list(Path('/proc/self/fd').iterdir()))\n"
        "print(data.tokens, opened, fds)"
    )
    corpus, size = folder / "corpus", args.tokens // args.shards
    corpus.mkdir()
    for number in range(args.shards):
        with (corpus / f"{'train' if number else 'val'}-{number:05d}.npy").open("wb") as file:
            header = {"descr": "<u2", "fortran_order": False, "shape": (size,)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 2 * size)
    done = subprocess.run([sys.executable, "-c", code, str(corpus)], check=True, stdout=subprocess.PIPE, text=True)
    tokens, opened, fds = done.stdout.split()
    what = f"{int(tokens) / 1e9:,.2f} billion tokens in {args.shards:,} shards"
    print(f"{what:<40}{fds:>12} open files (goal: fewer than {DESCRIPTORS}), opened in {float(opened):.1f} s\n")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = [*GOALS, "memory", "shards"]
    parser.add_argument("kinds", nargs="*", choices=[*kinds, []], help=f"what to measure [{' '.join(kinds)}]")
    parser.add_argument("--text", type=Path, default=TEXT, help="the text [../shared's tinyshakespeare]")
    parser.add_argument("--rows", type=int, default=80_000, help="documents of 4,500 characters a worker [80,000]")
    parser.add_argument("--workers", type=int, default=cores(), help="worker processes [one for each core]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=1000, help="of the file of `memory` [1,000]")
    parser.add_argument("--tokens", type=int, default=10_000_000_000, help="of the corpus of `shards`")
    parser.add_argument("--shards", type=int, default=1000, help="of the corpus of `shards`")
    args = parser.parse_args()
    for kind in args.kinds or kinds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if kind in GOALS:
                speed(kind, args, folder)
            else:
                {"memory": memory, "shards": shards}[kind](args, folder)


if __name__ == "__main__":
    main()
