"""Every snippet of pea's README runs, in order, and prints what its comments say."""

import io
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pea

README = Path(pea.__file__).with_name("README.md")
ROOT = Path(__file__).parents[2]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.M | re.S)


def test_python() -> None:
    snippets = blocks("python")
    assert len(snippets) >= 7
    names: dict[str, object] = {}
    for snippet in snippets:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(snippet, str(README), "exec"), names)
        promised = re.findall(r"^print\(.*\)  # (.*)$", snippet, flags=re.M)
        assert printed.getvalue().splitlines() == promised


def test_commands() -> None:
    commands = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    assert ["pip", "install", "./pea"] in commands
    runs = [command for command in commands if command[0] == "python"]
    assert runs
    for command in runs:
        done = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_links() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (README.parent / link).exists(), link
