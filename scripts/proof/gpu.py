"""What pealm does on a GPU: correctness, training speed, decoding, evaluation and memory, in one command.

    python scripts/proof/gpu.py --out DIR                       # one GPU, GPT-2 124M, six minutes at most
    python scripts/proof/gpu.py --out DIR --only decode step    # some parts
    python scripts/proof/gpu.py --out DIR --device cpu          # the same at toy size, to see that it runs

Needs no network and no data: tokens and text are made, or read from this repository. Prints a line for each fact:
"ok" or "FAIL" for what must hold, "met" or "missed" for goals, figures, and "skip" with a reason. DIR gets
`facts.jsonl`, a line for each fact as soon as it is known, `rows.md`, rows for docs/results.md, and `log.txt`, what
the parts wrote to standard error. A part has a process and a time limit of its own; one that fails does not stop the
others. The exit code is 1 if a part or a fact fails.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

WORKER = Path(__file__).with_name("gpu_parts.py")
# In order of importance, with the seconds that each may take.
PARTS = {
    "step": 130,  # tokens/s and MFU of 124M at 64 x 1024, overhead of the trainer, waits for the GPU
    "decode": 70,  # tokens/s of one and of 64 texts, with and without CUDA graphs, beside transformers
    "correct": 100,  # CPU and GPU, compiled and not, flash and math, precisions, resumed runs, the cache
    "eval": 60,  # HellaSwag's rows/s
    "memory": 50,  # by size and sequences in a pass
    "ladder": 110,  # speed-ups one by one
    "two": 70,  # two processes on one GPU
    "compiled": 80,  # decoding by a compiled model, recorded as a CUDA graph
}
MARKS = {"ok": "ok", "fail": "FAIL", "met": "met", "missed": "missed", "figure": "", "skip": "skip"}


class Part:
    """A process that runs parts, one after the other. It imports torch at once and starts with the word "go"."""

    def __init__(self, names: Sequence[str], spec: Mapping[str, Any], log: IO[str]) -> None:
        self.names, self.late = names, False
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps({**spec, "parts": list(names)})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )

    def facts(self, limit: float) -> Iterator[dict[str, Any]]:
        """Yield the facts as they come. A process that fails or exceeds the limit has one more, of that."""
        assert self._process.stdin and self._process.stdout
        timer = threading.Timer(limit, self.kill, [True])
        timer.start()
        try:
            print("go", file=self._process.stdin, flush=True)
            for line in self._process.stdout:
                if line.endswith("\n"):  # else the process was ended meanwhile
                    yield json.loads(line)
            code = self._process.wait()
        except BrokenPipeError:
            code = self._process.wait()
        finally:
            timer.cancel()
        if self.late or code:
            why = f"stopped after {limit:.0f} s" if self.late else f"ended with exit code {code}; see log.txt"
            yield {"part": " ".join(self.names), "status": "fail", "name": "the part itself", "text": why}

    def kill(self, late: bool = False) -> None:
        """End the process and what it started."""
        if self._process.poll() is None:
            self.late = late
            os.killpg(self._process.pid, signal.SIGKILL)


class Report:
    """The facts on the screen and in the folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.failed, self._folder, self._rows = False, folder, dict[str, list[str]]()
        (folder / "facts.jsonl").write_text("")

    def add(self, fact: Mapping[str, Any]) -> None:
        """Print and write a fact."""
        with (self._folder / "facts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(fact) + "\n")
        if fact["status"] == "row":
            cells = [fact[key] for key in ("name", "reference", "ours", "command")]
            self._rows.setdefault(fact["section"], []).append(f"| {' | '.join(cells)} |")
            head = ["| what | reference | ours | command |", "|---|---|---|---|"]
            tables = ["\n".join([f"## {section}", "", *head, *rows]) for section, rows in self._rows.items()]
            (self._folder / "rows.md").write_text("\n\n".join(tables) + "\n", encoding="utf-8")
            return
        self.failed = self.failed or fact["status"] == "fail"
        print(f"{fact['part']:<9}{MARKS[fact['status']]:<7}{fact['name']:<43} {fact['text']}", flush=True)


def has_gpu() -> bool:
    """Return whether torch finds a CUDA device, asked in another process."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 0


def main() -> None:
    """Run the parts, print and write what they find."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder for facts.jsonl, rows.md and log.txt")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="[cuda if there is a GPU]")
    parser.add_argument("--quick", action="store_true", help="toy sizes, as always on a CPU")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--seconds", type=float, default=360, help="for all parts; the last ones are skipped [360]")
    parser.add_argument("--hellaswag", type=Path, help="real rows of HellaSwag, besides made ones")
    args = parser.parse_args()
    device = args.device or ("cuda" if has_gpu() else "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    spec = {
        "device": device,
        "quick": args.quick or device == "cpu",
        "hellaswag": args.hellaswag and str(args.hellaswag),
    }
    # Toy sizes take less time than importing torch in each process.
    groups = [args.only] if spec["quick"] else [[name] for name in args.only]
    report, end = Report(args.out), time.monotonic() + args.seconds
    with (args.out / "log.txt").open("w", encoding="utf-8") as log:
        following: Part | None = Part(groups[0], spec, log)
        for names, after in zip(groups, [*groups[1:], None], strict=True):
            part, following = following, None
            assert part
            rest = end - time.monotonic()
            if rest < 10:
                part.kill()
                text = f"no time is left of {args.seconds:.0f} s"
                report.add({"part": names[0], "status": "skip", "name": "the part itself", "text": text})
                following = Part(after, spec, log) if after else None
                continue
            if after:
                following = Part(after, spec, log)  # imports torch meanwhile
            try:
                for fact in part.facts(min(rest, sum(PARTS[name] for name in names))):
                    report.add(fact)
            finally:
                part.kill()
    sys.exit(report.failed)


if __name__ == "__main__":
    main()
