"""The benchmark of growth runs at toy sizes and prints an exponent for every part."""

import subprocess
import sys
from pathlib import Path

import pytest

GROWTH = Path(__file__).parents[2] / "scripts" / "bench" / "growth.py"


@pytest.mark.slow
def test_every_part(tiktoken_files: Path, tmp_path: Path) -> None:
    env = {"TIKTOKEN_CACHE_DIR": str(tiktoken_files), "OMP_NUM_THREADS": "1", "PEALM_CACHE": str(tmp_path)}
    words = [sys.executable, GROWTH, "--sizes", "1", "9", "18", "--rounds", "1", "tokens", "shards", "plugins"]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr  # 1: at such sizes an exponent says nothing
    for name in ("tokens", "shards", "plugins"):
        rows = [line.split() for line in done.stdout.splitlines() if line.startswith(name)]
        assert [row[1] for row in rows] == ["1", "9", "18", "exponent"], done.stdout + done.stderr
        assert all(float(row[2]) >= 0 for row in rows[:3])
