"""How fast FineWeb's preparation turns parquet into shards, beside tiktoken alone on one thread.

    TIKTOKEN_CACHE_DIR=... python scripts/bench/prepare.py [TEXT]

Makes parquet files of documents as long as FineWeb's from a text that is repeated with changes, and prepares them
with a worker on every core, start-up and disk included. tiktoken is timed before and after, in this process, for some
seconds on documents taken evenly from all of them, and then in as many processes side by side as there are workers:
what the machine could give. Prints tokens/s, and how many such threads the preparation is worth, round by round and
the median; the goal is 0.9 for each core. Where others use the machine, too, tokens for a second of CPU time tell
more.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import tiktoken

from pealm_fineweb.prepare import Plan, cores, prepare

TEXT = Path(__file__).resolve().parents[3] / "shared" / "data" / "tinyshakespeare.txt"
DOCUMENT, GROUP, FILES = 4500, 1000, 2  # characters, rows, parquet files


def documents(text: str) -> Iterator[str]:
    """The text over and over in pieces, each time with other numbers in it, so that no two documents are the same."""
    turn = 0
    while True:
        changed = text.replace(" the ", f" the {turn} ")
        for start in range(0, len(changed), DOCUMENT):
            yield changed[start : start + DOCUMENT]
        turn += 1


def write(folder: Path, texts: Iterator[str], rows: int) -> None:
    """Parquet files with this many rows in all."""
    schema = pa.schema([("text", pa.string())])
    for number in range(FILES):
        with pq.ParquetWriter(folder / f"{number:03d}.parquet", schema) as file:
            for _ in range(max(1, rows // FILES // GROUP)):
                file.write_table(pa.table({"text": [next(texts) for _ in range(GROUP)]}, schema))


def alone(texts: list[str]) -> tuple[float, float]:
    """tiktoken on one thread: tokens a second, and tokens a second of CPU time."""
    encoding = tiktoken.get_encoding("gpt2")
    begin, cpu = time.perf_counter(), time.process_time()
    tokens = sum(1 + len(encoding.encode_ordinary(text)) for text in texts)
    return tokens / (time.perf_counter() - begin), tokens / (time.process_time() - cpu)


def side_by_side(texts: list[str], processes: int) -> float:
    """Tokens a second of `alone` in several processes at once, each a thread; all are warm when it is timed."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for _ in range(2):  # the first time they start and load the vocabulary
            rates = [rate for rate, _ in pool.map(alone, [texts] * processes)]
    return sum(rates)


def cpu_seconds() -> float:
    """CPU time of this process and of all that it has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in used)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, nargs="?", default=TEXT, help="the text [../shared's tinyshakespeare]")
    parser.add_argument("--rows", type=int, default=80_000, help="documents of 4,500 characters a worker [80,000]")
    parser.add_argument("--workers", type=int, default=cores(), help="worker processes [a core each]")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")
    rows = args.rows * args.workers
    sample = list(islice(documents(text), 0, rows, max(1, rows // 20_000)))
    goal, ratios, of_cpu, ceilings = 0.9 * min(args.workers, cores()), [], [], []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        source.mkdir()
        write(source, documents(text), rows)
        before = alone(sample)
        for number in range(args.rounds):
            out = Path(folder, f"out-{number}")
            begin, cpu = time.perf_counter(), cpu_seconds()
            prepare(Plan(out, source, shard_size=140 * rows, workers=args.workers))
            seconds, cpu = time.perf_counter() - begin, cpu_seconds() - cpu
            after, ceiling = alone(sample), side_by_side(sample, args.workers)
            tokens = sum(path.stat().st_size for path in out.glob("*.npy")) // 2
            shutil.rmtree(out)
            wall, work = ((before[i] + after[i]) / 2 for i in (0, 1))
            ratios.append(tokens / seconds / wall)
            of_cpu.append(tokens / cpu / work)
            ceilings.append(ceiling / wall)
            print(f"\n{'tiktoken alone, one thread':<40}{wall:>12,.0f} tokens/s")
            many = f"the same in {args.workers} processes"
            print(f"{many:<40}{ceiling:>12,.0f} tokens/s, ratio {ceilings[-1]:.2f}")
            what = f"preparation, {args.workers} workers on {cores()} cores"
            print(f"{what:<40}{tokens / seconds:>12,.0f} tokens/s")
            print(f"{'ratio':<40}{ratios[-1]:>12.2f}, of CPU time {of_cpu[-1]:.2f}", flush=True)
            before = after
    middle = statistics.median(ratios)
    print(f"\n{'median ratio':<40}{middle:>12.2f} (goal {goal:.2f}), of CPU time {statistics.median(of_cpu):.2f}")
    print(f"{'median of the processes alone':<40}{statistics.median(ceilings):>12.2f}")
    print(f"load of the machine before: {os.getloadavg()[2]:.1f}, now {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
