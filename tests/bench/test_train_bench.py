"""The benchmarks of GPT-2's training run at a tiny size and print what they promise."""

import csv
import doctest
import importlib.util
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pealm_core import fast_bf16

pytest.importorskip("pealm_gpt2")

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
TINY = {"n-layer": 1, "n-embd": 16, "n-head": 2, "vocab-size": 100, "block-size": 8, "batch-size": 2}
SMALL = ["--quick", "--device", "cpu", *(word for name, n in TINY.items() for word in (f"--{name}", n))]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def train() -> ModuleType:
    return load("train")


@pytest.fixture(scope="module")
def ladder() -> ModuleType:
    return load("gpt2_ladder")


def run(script: str, *options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, BENCH / script, *map(str, options)], capture_output=True, text=True)


@pytest.mark.slow
def test_beside_transformers() -> None:
    pytest.importorskip("transformers")
    done = run("train.py", *SMALL, "--steps", 3, "--against", "transformers")
    assert done.returncode == 0, done.stderr
    promised = ("tokens/s", "measured peak", "6 N + 12 L H Q T", "FLOP a byte", "peak memory", "3 blocks of 1")
    for words in (*promised, "pealm is", "times the memory"):
        assert words in done.stdout, words
    # Tokens drawn at random from 100 teach nothing: both losses are ln 100 = 4.6.
    losses = [float(line.rpartition(" ")[2]) for line in done.stdout.splitlines() if "last loss" in line]
    assert len(losses) == 2 and all(4.4 < loss < 4.8 for loss in losses)


@pytest.mark.slow
def test_the_ladder(tmp_path: Path) -> None:
    done = run("gpt2_ladder.py", "--out", tmp_path / "new", *SMALL, "--steps", 1)
    assert done.returncode == 0, done.stderr
    assert "skipped: no tf32 here" in done.stdout and "A30" in done.stdout and "PaLM" in done.stdout
    with (tmp_path / "new" / "ladder.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ["fp32, plain", *["bf16"] * fast_bf16(torch.device("cpu")), "fused AdamW", "padded vocabulary"]
    names += ["oneDNN (AMD's CPUs)", "freed memory is kept (CPUs)", "rare garbage collection"]
    assert [row["rung"] for row in rows] == names and rows[0]["ratio"] == "1.0"
    assert all(float(row["memory"]) > 1e7 for row in rows)
    svg = ET.fromstring((tmp_path / "new" / "ladder.svg").read_text())
    assert len(svg.findall("{*}rect")) == 1 + len(names)


def test_the_ladder_ends_where_pealm_begins(ladder: ModuleType, train: ModuleType) -> None:
    *_, last = ladder.climb({"cuda", "tf32", "bf16"})
    assert last[1] == ["--dtype", "bf16", "--without"]
    first, *rest = ladder.climb({"cuda", "tf32", "bf16"})
    assert {*train.SPEED_UPS, "fp32", "--unfused", "--unpadded"} <= set(first[1])
    lengths = [len(options) for _, options in rest]
    assert all(options is not None for _, options in rest) and lengths == sorted(lengths, reverse=True)


def test_the_speed_ups_are_the_trainers(train: ModuleType) -> None:
    from typing import get_args, get_type_hints

    from pealm_core.config.settings import TrainSettings

    (names, _) = get_args(get_type_hints(TrainSettings)["without"])
    assert get_args(names) == train.SPEED_UPS


@pytest.mark.parametrize("size", [{"n_layer": 3, "n_embd": 24}, {"n_layer": 1, "n_embd": 64}])
def test_n_counts_the_models_parameters(train: ModuleType, size: dict[str, Any]) -> None:
    from pealm_gpt2.config import GPT2Config
    from pealm_gpt2.model import GPT2

    model = GPT2(GPT2Config(vocab_size=130, block_size=32, n_head=2, **size))
    count = sum(p.numel() for p in model.parameters()) - model.wpe.weight.numel()
    assert train.parameters({**size, "vocab_size": 130}) == count - (256 - 130) * size["n_embd"]


def test_flops_are_those_that_torch_counts(train: ModuleType) -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from pealm_gpt2.config import GPT2Config
    from pealm_gpt2.model import GPT2

    shape: dict[str, Any] = {"n_layer": 2, "n_embd": 256, "block_size": 128, "vocab_size": 512}
    model, idx = GPT2(GPT2Config(n_head=2, **shape)), torch.zeros(2, 128, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model(idx, idx)[1].backward()
    per_token = counted.get_total_flops() / idx.numel()
    assert train.flops(shape) == pytest.approx(
        per_token, rel=0.01
    )  # N has biases and norms, which multiply no matrix


def test_published_peaks(train: ModuleType) -> None:
    assert train.published("NVIDIA H100 80GB HBM3") == 989 and train.published("NVIDIA H100 PCIe") == 756
    assert train.published("NVIDIA A100-SXM4-80GB") == 312 and train.published("NVIDIA A30") == 165
    assert train.published("NVIDIA RTX A3000") is None and train.published("NVIDIA GeForce RTX 4090 D") is None
    assert doctest.testmod(train).failed == 0


def test_a_device_that_is_not_there() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    done = run("train.py", "--device", "cuda")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.strip() == "peak: --device cuda: torch finds no CUDA device here; use --device cpu"
