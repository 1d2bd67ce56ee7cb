"""`scripts/proof/own_data.py` at toy size: own text to two models that share a tokenizer, on two processes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_own_data_from_text_to_two_models(shakespeare: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "proof" / "own_data.py"), str(shakespeare)]
    toy = ["--megabytes", "1", "--vocabulary", "400", "--steps", "10"]
    done = subprocess.run([*command, *toy], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 8 and "FAILED" not in done.stdout
