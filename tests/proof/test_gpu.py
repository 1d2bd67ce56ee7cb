"""`scripts/proof/gpu.py` at toy size on a CPU: every part runs, and what must hold does."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "proof" / "gpu.py"
PARTS = ("step", "decode", "correct", "eval", "memory", "ladder", "two", "compiled")


def run(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--device", "cpu", *options]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_every_part_at_toy_size(tmp_path: Path) -> None:
    done = run(tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    facts = [json.loads(line) for line in (tmp_path / "facts.jsonl").read_text().splitlines()]
    assert tuple(dict.fromkeys(fact["part"] for fact in facts)) == PARTS
    assert sum(fact["status"] == "ok" for fact in facts) >= 14
    assert all(fact["text"] for fact in facts if fact["status"] == "skip")
    rows = (tmp_path / "rows.md").read_text()
    assert "124M" not in rows and "| a toy model on one CPU, 2 x 32 tokens a step |" in rows
    assert "not for the tables" in rows and re.search(r"^\| ladder, bf16 \| – \| [\d,]+ tokens/s", rows, re.M)


FAILING = """
import sys, gpu_parts
from gpu_parts import Facts

import pytest

def wrong(m, facts: Facts) -> None:
    facts.check("two numbers", 1 == 2, "they differ")
    with facts.attempt("a division"):
        1 / 0
    raise SystemExit(3)

gpu_parts.ALL["step"] = wrong
gpu_parts.main()
"""


def test_a_part_that_fails_is_told_and_does_not_stop_the_others(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(FAILING)
    code = f"import sys, pathlib, gpu; gpu.WORKER = pathlib.Path({str(worker)!r}); gpu.main()"
    options = ["--out", str(tmp_path / "out"), "--device", "cpu", "--only", "step", "compiled"]
    environment = {"PYTHONPATH": str(SCRIPT.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert re.search(r"step +FAIL +two numbers +they differ", done.stdout), done.stdout + done.stderr
    assert re.search(r"step +FAIL +a division +ZeroDivisionError", done.stdout)
    assert re.search(r"compiled +skip", done.stdout)
