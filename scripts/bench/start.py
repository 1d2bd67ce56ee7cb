"""How long `pealm train --input.text` takes to its first step on a large text, and in how much memory.

    python scripts/bench/start.py [TEXT] [--size BYTES] [--tokenizer NAME]

Makes a text of a size by repeating another with changes. In each round: a short text (all that a start costs besides
the text), the large one with an empty cache, and again with what the cache has. Beside them plain Python with the
same tokenizer in one process: read the file, encode some megabytes at a time, write the ids. Prints seconds, the
memory of the largest process, and ratios. The goals for 2 GB: under 1 GB of memory, and a second start within two
seconds of the short text's.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEXT = Path(__file__).resolve().parents[3] / "shared" / "data" / "tinyshakespeare.txt"
PEALM = str(Path(sys.executable).with_name("pealm"))
TRAIN = ["train", "char-bigram", "--steps", "1", "--eval-tokens", "256", "--sample-every", "0", "--block-size", "8"]
PLAIN = """
import sys
import numpy as np
from pealm_core.checkpoints.build_tokenizer import make_tokenizer
from pealm_core.config.resolve_job import plan

job = plan(("tokenizer",), words={"tokenizer": {"name": sys.argv[2]}})
tokenizer = make_tokenizer(job)
with open(sys.argv[1], encoding="utf-8") as file:
    if hasattr(tokenizer, "fit"):
        tokenizer.fit(iter(lambda: file.read(2**22), ""))
        file.seek(0)
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    with open(sys.argv[3], "wb") as out:
        while text := file.read(2**22) + file.readline():
            np.asarray(tokenizer.encode(text), dtype).tofile(out)
"""


def write(path: Path, text: str, size: int) -> None:
    """Write the text over and over, each time with another number in it, to this many bytes."""
    turn, written = 0, 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            changed = text.replace(" the ", f" the {turn} ")[: size - written]
            written, turn = written + len(changed.encode()), turn + 1
            file.write(changed)
    past = time.time() - 60
    os.utime(path, (past, past))  # a file that was written just now is read at every start


def measure(command: list[str], folder: Path) -> tuple[float, float]:
    """Return the seconds of a command, and the largest memory of one of its processes in MB."""
    code = (
        "import resource, subprocess, sys, time\n"
        "begin = time.perf_counter()\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)\n"
        "if done.returncode: sys.exit(done.stderr)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(time.perf_counter() - begin, used.ru_maxrss)\n"
    )
    env = {**os.environ, "PEALM_CACHE": str(folder / "cache"), "PEALM_DISABLE_PLUGINS": "report"}
    done = subprocess.run(
        [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, check=True, cwd=folder, env=env
    )
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path, nargs="?", default=TEXT, help="the text [../shared's tinyshakespeare]")
    parser.add_argument("--size", type=int, default=2 * 10**9, help="bytes of the large text [2 billion]")
    parser.add_argument("--tokenizer", default="char", help="tokenizer [char]")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to make the text and the cache [the system's]")
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")
    columns: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write(folder / "short.txt", text, 20_000)
        write(folder / "large.txt", text, args.size)
        for turn in range(args.rounds):
            shutil.rmtree(folder / "cache", ignore_errors=True)
            plain = [sys.executable, "-c", PLAIN, "large.txt", args.tokenizer, "plain.bin"]
            train = {
                title: [PEALM, *TRAIN, "--tokenizer", args.tokenizer, "--input.text", path, "--out", f"{title}{turn}"]
                for title, path in (("short text", "short.txt"), ("first start", "large.txt"))
            }
            train["second start"] = [*train["first start"][:-1], f"second{turn}"]
            for title, command in (("plain Python", plain), *train.items()):
                columns.setdefault(title, []).append(measure(command, folder))
                seconds, memory = columns[title][-1]
                print(f"{title:<16}{seconds:>10.1f} s{memory:>10,.0f} MB", flush=True)
    middle = {title: statistics.median(seconds for seconds, _ in column) for title, column in columns.items()}
    base = middle["short text"]
    print(f"\n{args.size:,} bytes, {args.tokenizer}, {len(os.sched_getaffinity(0))} cores; medians of {args.rounds}")
    print(f"first start / plain Python      {(middle['first start'] - base) / middle['plain Python']:>8.2f}")
    print(f"second start after a short one  {middle['second start'] - base:>8.2f} s (goal: 2)")
    largest = max(memory for title in ("first start", "second start") for _, memory in columns[title])
    print(f"largest process                 {largest:>8,.0f} MB (goal: 1,000)")
    print(f"load of the machine             {os.getloadavg()[0]:>8.1f}")


if __name__ == "__main__":
    main()
