"""`scripts/bench/estimate.py` at toy size."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_estimate_is_compared_with_a_measurement() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "estimate.py"), "--toy"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ratios = re.findall(r"^toy fp32 +(tokens/s|MB) .* ratio ([\d.]+)", done.stdout, re.MULTILINE)
    assert [what for what, _ in ratios] == ["tokens/s", "MB"] and all(float(ratio) > 0 for _, ratio in ratios)
