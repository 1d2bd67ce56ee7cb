"""The benchmark runs, its losses and gradients agree, and pea's nodes take at most half of micrograd's memory."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pea

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench" / "pea.py"

pytest.importorskip("micrograd")


@pytest.fixture
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_pea", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_runs() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("times faster", "by hand", "ns a node", "bytes a node"):
        assert word in done.stdout


def test_half_the_memory_a_node(bench: ModuleType) -> None:
    with bench.recursion(5000):
        assert bench.chain_bytes(pea.Value, 2000) <= bench.chain_bytes(bench.micrograd.engine.Value, 2000) / 2
