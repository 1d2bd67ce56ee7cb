"""A sample of `scripts/proof/attack.py`: bad input, faults and hostile files end as documented."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="trials run in forks")


def attack(*args: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "scripts" / "proof" / "attack.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_sample_of_all_trials() -> None:
    done = attack("-n", "60", "--seed", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"all +60 trials, +0 fail", done.stdout)
