"""The benchmark of learning a byte-pair encoding, at a tiny size."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.mark.slow
def test_learning_beside_tokenizers() -> None:
    options = ["--bytes", "20000", "--words", "300", "--vocab-size", "400", "--rounds", "1"]
    done = subprocess.run([sys.executable, BENCH / "bpe.py", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in ("pealm / tokenizers, Chinese", "Chinese / English (goal 2)", "peak memory"):
        assert words in done.stdout
