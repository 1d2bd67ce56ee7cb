"""A sample of `scripts/proof/attack.py`: bad input, faults and hostile files end as documented."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="trials run in forks")

SAMPLE = """
import random, sys, attack
wrong = attack.Trial("this one fails", ["plugins"], (7,), needs="never shown", kind="wrong")
sys.exit(attack.attack([*random.Random(3).sample(attack.trials(), 60), wrong], jobs=2) - 1)
"""


def test_a_sample_of_all_trials() -> None:
    """One trial that must fail is among them: they do compare."""
    command = [sys.executable, "-c", SAMPLE]
    place = ROOT / "scripts" / "proof"
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exit 0, expected 7; does not show 'never shown'" in done.stdout
    assert re.search(r"all +61 trials, +1 fail", done.stdout)
