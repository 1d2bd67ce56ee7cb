"""The script that changes a module finds what its tests miss, and leaves the file alone."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_missing_test_is_a_survivor(tmp_path: Path) -> None:
    module, tests = tmp_path / "small.py", tmp_path / "test_small.py"
    source = "def clip(x: int) -> int:\n    return 9 if x > 9 else x\n"
    module.write_text(source)
    tests.write_text("from small import clip\n\n\ndef test_clip():\n    assert clip(12) == 9 and clip(3) == 3\n")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "proof" / "mutants.py", "small.py", "test_small.py", "--preload", "json"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # quicker
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.splitlines() == [
        "small.py:2: x >= 9",  # equivalent
        "small.py:2: x > 10",  # 10 isn't tested
        "small.py: 2 of 4 mutants fail a test, 2 survive",
    ], done.stderr
    assert module.read_text() == source
