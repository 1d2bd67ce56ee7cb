"""The benchmark of `pealm tokenize` runs, at toy size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOY = ["--rows", "1000", "--workers", "1", "--rounds", "1", "--megabytes", "1", "--tokens", "400000", "--shards", "4"]


@pytest.mark.slow
def test_every_figure_is_printed(shakespeare: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "prepare.py"), "--text", str(shakespeare), *TOY]
    environment = {**os.environ, "TIKTOKEN_CACHE_DIR": str(shakespeare.parent / "tiktoken")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for words in ("parquet: median ratio", "jsonl: median ratio", "largest process", "open files (goal"):
        assert words in done.stdout
