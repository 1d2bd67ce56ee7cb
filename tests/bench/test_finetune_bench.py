"""The benchmark of fine-tuning runs at a tiny size: both sides train the same weights on the same batches."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pealm_gpt2")
pytest.importorskip("transformers")
BENCH = Path(__file__).parents[2] / "scripts" / "bench" / "finetune.py"
TINY = "--n-layer 2 --n-embd 32 --n-head 2 --vocab-size 300 --block-size 64 --batch-size 2 --rounds 2 --lr 0.01"


@pytest.mark.slow
@pytest.mark.parametrize("options", ["--targets all --rank 3", "--full"])
def test_the_curves_are_alike(options: str) -> None:
    if "--full" not in options:
        pytest.importorskip("peft")
    done = subprocess.run([sys.executable, BENCH, *TINY.split(), *options.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    curves = [line.split()[2:] for line in done.stdout.splitlines() if " losses " in line]
    assert len(curves) == 2 and len(curves[0]) == 2 + 2 * 2
    difference = re.search(r"largest difference of a step's losses: (\S+)", done.stdout)
    assert difference and float(difference[1]) < 1e-3, done.stdout
    assert max(map(float, curves[0])) - min(map(float, curves[0])) > 0.01  # they learn, or the batches vary
    assert "peak memory" in done.stdout and "tokens/s: " in done.stdout


def test_without_peft_it_says_what_to_install() -> None:
    code = (
        "import runpy, sys; sys.modules['peft'] = None; path = sys.argv.pop(); runpy.run_path(path, None, '__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code, BENCH], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip() == "peft is not installed: pip install peft"
