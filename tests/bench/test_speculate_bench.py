"""scripts/bench/speculate.py at a tiny size."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench" / "speculate.py"


@pytest.mark.slow
def test_repetition_takes_fewer_passes_and_noise_as_many() -> None:
    command = [sys.executable, str(SCRIPT), "--layers", "1", "--tokens", "24", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    repetition, noise = done.stdout.splitlines()
    assert "the text is the same" in repetition and "the text is the same" in noise
    assert "24 and 24 passes" in noise
    before, after = (int(word) for word in repetition.split("; ")[1].split() if word.isdigit())
    assert before == 24 and after < 12
