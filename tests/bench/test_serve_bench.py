"""scripts/bench/serve.py at a tiny size."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench" / "serve.py"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_four_clients_for_a_moment() -> None:
    """No request fails, and the memory stays: the script compares both."""
    pytest.importorskip("transformers")
    command = [sys.executable, str(SCRIPT), "--clients", "4", "--seconds", "1", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("4 clients", " 0 failed", "ratio", "first token", "memory"):
        assert words in done.stdout
