"""The benchmark of a start on a large text runs at a tiny size and prints what it promises."""

import subprocess
import sys
from pathlib import Path

import pytest

START = Path(__file__).parents[2] / "scripts" / "bench" / "start.py"


@pytest.mark.slow
def test_a_start(book: Path) -> None:
    done = subprocess.run([sys.executable, START, book, "--size", "100000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {line[:16].strip(): line.split() for line in done.stdout.splitlines() if line.endswith(" MB")}
    for title in ("plain Python", "short text", "first start", "second start"):
        assert float(rows[title][2]) > 0 and 20 < float(rows[title][-2].replace(",", "")) < 2000
    for words in (
        "100,000 bytes, char",
        "first start / plain Python",
        "second start after a short one",
        "(goal: 1,000)",
    ):
        assert words in done.stdout
