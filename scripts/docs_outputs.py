"""Run the commands of the tutorial and of two other pages and write what they print into the pages.

    python scripts/docs_outputs.py                       # all pages, in order, in a new folder
    python scripts/docs_outputs.py chat                  # one page; it may need the runs of earlier ones: --folder
    python scripts/docs_outputs.py --folder /tmp/tour --shakespeare FILE

In a page, a Python or TOML block is a file if it has a title, or begins with a comment that is the file's name, and a
block `sh` is what a reader types. What stands below a line `<!-- not run -->` is left as it is. A comment
`<!-- output -->` below it stands before what it prints; `<!-- output: first 8, last 3 -->` keeps some of the lines.
`same` in it says that every run prints the same, which a test compares.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial"
ORDER = ("neuron", "bigram", "attention", "transformer", "gpt2", "finetune", "chat", "look-inside")
PAGES = {name: TUTORIAL / f"{name}.md" for name in ORDER} | {
    "plugins": ROOT / "docs" / "plugins.md",
    "smollm2": ROOT / "docs" / "howto" / "smollm2.md",
}
FILE = re.compile(
    r'^```(?:python title="([\w.-]+)"\n|(?:python|toml)\n(?=# ([\w.-]+)\n))(.*?)^```', re.MULTILINE | re.DOTALL
)
NOT_RUN = "<!-- not run -->"
BLOCK = re.compile(
    r"^```sh\n(?P<sh>.*?)^```\n(?P<head>\s*<!-- output(?P<how>[^>]*) -->\n\n?)?"
    r"(?(head)(?:```text\n(?P<out>.*?)^```\n)?)",
    re.MULTILINE | re.DOTALL,
)
ELLIPSIS = "..."


@dataclass(frozen=True)
class Step:
    """A block of commands. output: what the page shows, None if it shows nothing; how: the comment's words."""

    commands: str
    output: str | None
    how: str

    def shown(self, printed: str) -> str:
        """Return the lines of a printed text that the page keeps."""
        lines = [line.rstrip() for line in printed.strip("\n").splitlines() if "loading the plugin" not in line]
        numbers = {word: int(number) for word, number in re.findall(r"(first|last) (\d+)", self.how)}
        first, last = numbers.get("first", 0), numbers.get("last", 0)
        if numbers and first + last < len(lines):
            lines = [*lines[:first], ELLIPSIS, *(lines[-last:] if last else [])]
        return "".join(f"{line}\n" for line in lines)


def files(page: str) -> dict[str, str]:
    """Map the names of the files of a page to their content."""
    return {title or comment: text for title, comment, text in FILE.findall(page)}


def steps(page: str) -> Iterator[Step]:
    """Yield the blocks of commands of a page, in order."""
    for match in BLOCK.finditer(page):
        yield Step(match["sh"], match["out"] if match["head"] else None, match["how"] or "")


def prepare(folder: Path, shakespeare: Path | None) -> dict[str, str]:
    """Make a folder look like a clone, with a cache of its own; return the environment for its commands."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("weights", "examples", "scripts"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}
    if shakespeare is not None:
        cache = folder / "cache"
        cache.mkdir(exist_ok=True)
        shutil.copyfile(shakespeare, cache / "tinyshakespeare.txt")
        env["PEALM_CACHE"] = str(cache)
    return env


def regenerate(path: Path, folder: Path, env: dict[str, str]) -> None:
    """Run a page's commands and write their output into it."""
    page, *rest = re.split(f"(?={NOT_RUN})", path.read_text(encoding="utf-8"), maxsplit=1)
    for name, text in files(page).items():
        (folder / name).write_text(text, encoding="utf-8")

    def run(match: re.Match[str]) -> str:
        (step,) = steps(match[0])
        print(f"$ {step.commands.strip()}", flush=True)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(["bash", "-ec", step.commands], cwd=folder, env=env, **pipes)  # type: ignore[call-overload]
        if done.returncode:
            raise SystemExit(f"docs_outputs: {path.name}: {step.commands}{done.stdout}")
        if not match["head"]:
            return match[0]
        printed = done.stdout.replace(f"{folder}/", "")
        return f"```sh\n{step.commands}```\n{match['head'].rstrip()}\n\n```text\n{step.shown(printed)}```\n"

    path.write_text("".join([BLOCK.sub(run, page), *rest]), encoding="utf-8")


def main() -> None:
    """Regenerate the pages that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"of {', '.join(PAGES)} [all]")
    parser.add_argument("--folder", type=Path, help="where to run; its runs are kept [a new folder, removed]")
    parser.add_argument("--shakespeare", type=Path, help="tinyshakespeare in a file, instead of a download")
    args = parser.parse_args()
    if unknown := {*args.pages} - {*PAGES}:
        parser.error(f"no such page: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as new:
        folder = args.folder or Path(new)
        env = prepare(folder.absolute(), args.shakespeare)
        for name, path in PAGES.items():
            if not args.pages or name in args.pages:
                regenerate(path, folder.absolute(), env)


if __name__ == "__main__":
    main()
