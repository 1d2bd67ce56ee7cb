"""What is on for speed changes nothing else."""

import gc
import platform
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pealm_core.checkpoints.tensors import read_tensors
from pealm_core.config.settings import TrainSettings
from pealm_core.contract.errors import UserError
from pealm_core.contract.training_protocols import Batch
from pealm_core.hardware import device, faster_training
from pealm_core.hardware.distributed import World
from pealm_core.hardware.faster_training import describe, faster
from pealm_core.training.batches import Batches
from pealm_core.training.objective import NextToken

CPU = torch.device("cpu")


class Numbers:
    """A source whose rows hold the number of their sample; the one of sample `broken` can't be read."""

    tokens, block_size = 1000, 1

    def __init__(self, broken: int = -1) -> None:
        self.broken = broken
        self.drawn: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return 1000

    def rows(self, samples: Iterable[int]) -> Batch:
        numbers = list(samples)
        if self.broken in numbers:
            raise UserError("shard.npy has become shorter")
        self.drawn.append((numbers[0], threading.current_thread().name))
        tokens = torch.tensor([[number] for number in numbers])
        return {"idx": tokens, "targets": tokens + 1}


def batches_ahead(source: Numbers) -> Batches:
    parts = {
        "objective": NextToken(None, None),
        "data": SimpleNamespace(train=source),
        "world": World(rank=1, size=2),
    }
    trainer: Any = SimpleNamespace(**parts, device=CPU, settings=TrainSettings(batch_size=8), micro_batch_size=2)
    return Batches(trainer, ahead=True)


def test_batches_ahead_are_those_of_their_steps() -> None:
    batches = batches_ahead(source := Numbers())
    for sample in (0, 8, 16, 56, 64):
        batch, counts = batches.get(sample)
        own = [[number] for number in range(sample + 4, sample + 8)]  # the part of rank 1
        assert batch["idx"].tolist() == own and counts == [2, 2]
    batches.close()
    ahead = [name.startswith("batches") for first, name in source.drawn if first - 4 in (8, 16, 64)]
    assert ahead == [True] * 3  # by the thread


def test_a_batch_that_can_not_be_drawn_fails_at_its_own_step() -> None:
    batches = batches_ahead(Numbers(broken=21))
    for sample in (0, 8):
        assert int(batches.get(sample)[0]["idx"][0]) == sample + 4
    with pytest.raises(UserError, match="shorter"):
        batches.get(16)
    batches.close()


def test_everything_is_as_before_afterwards() -> None:
    before = gc.get_threshold(), torch.get_float32_matmul_precision()
    with faster(nn.Linear(2, 2), CPU, ()):
        assert gc.get_threshold() != before[0]
    assert (gc.get_threshold(), torch.get_float32_matmul_precision()) == before
    with faster(nn.Linear(2, 2), CPU, ("gc",)):
        assert gc.get_threshold() == before[0]
    assert describe(CPU, torch.float32, ()) == "fp32"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory of another C library is left alone")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    code = """
import ctypes, resource, sys, torch
from pealm_core.hardware.faster_training import faster
c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
with faster(torch.nn.Linear(1, 1), torch.device("cpu"), tuple(sys.argv[1:])):
    for _ in range(6):
        before = faults()
        parts = [c.malloc(8_000_000) for _ in range(10)]
        for part in parts:
            c.memset(part, 1, 8_000_000)
        for part in parts:
            c.free(part)
    print(faults() - before)
"""
    kept, mapped = (
        int(subprocess.check_output([sys.executable, "-c", code, *words], text=True)) for words in ([], ["heap"])
    )
    assert kept < 100 and mapped > 100


def test_what_is_left_out_changes_nothing(pealm: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    small = ("--model.block-size", 8, "--model.n-layer", 1, "--model.n-embd", 8, "--model.n-head", 2, "--steps", 3)
    fewer = ("--without", "gc,prefetch,heap", "--optimizer.fused", "true")
    for name, extra in (("a", ()), ("b", fewer), ("c", ("--without", "onednn"))):
        done = pealm("train", "char-transformer", "--input.text", book, *small, "--out", tmp_path / name, *extra)
        assert done.code == 0, done.err
    one, two, three = (read_tensors(tmp_path / n / "best" / "model.safetensors")[0] for n in "abc")
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert all(torch.allclose(one[name], three[name], rtol=1e-3, atol=1e-5) for name in three)
    wrong = pealm("train", "char-transformer", "--input.text", book, "--without", "gcc")
    assert wrong.code == 2 and "--without must be one of tf32," in wrong.err


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_is_for_cpus_that_multiply_it_fast(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpuinfo", lambda: "flags : avx2 avx512f " + "avx512_bf16" * fast)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert device.fast_bf16(CPU) == fast
    assert device.pick_dtype("auto", CPU) == (torch.bfloat16 if fast else torch.float32)
    assert device.pick_dtype("fp32", CPU) == torch.float32 and device.pick_dtype("bf16", CPU) == torch.bfloat16
    assert not device.fast_bf16(torch.device("mps"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")  # as ATEN_CPU_CAPABILITY has it
    assert not device.fast_bf16(CPU)


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), "bfloat16"), ((7, 5), "float16"), ((7, 0), "float16"), ((6, 1), "float32")]
)
def test_fp16_is_for_gpus_without_fast_bf16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0))
    assert device.pick_dtype("auto", torch.device("cuda")) == getattr(torch, expected)
    assert device.pick_dtype("fp16", CPU) == torch.float16


@pytest.mark.parametrize(("version", "works"), [("13.6", False), ("14.0", True), ("26.1", True)])
def test_a_metal_device_multiplies_in_fp32_unless_asked(
    monkeypatch: pytest.MonkeyPatch, version: str, works: bool
) -> None:
    metal = torch.device("mps")
    monkeypatch.setattr(platform, "mac_ver", lambda: (version, ("", "", ""), "arm64"))
    assert device.pick_dtype("auto", metal) == torch.float32
    assert device.pick_dtype("fp16", metal) == torch.float16
    if works:
        assert device.pick_dtype("bf16", metal) == torch.bfloat16
        return
    with pytest.raises(UserError, match="--dtype bf16: Metal has it from macOS 14 on; use --dtype fp32 or fp16"):
        device.pick_dtype("bf16", metal)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own, when it compiles
def test_without_a_c_compiler_training_is_not_compiled_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda, header = torch.device("cuda"), tmp_path / "Python.h"
    header.touch()
    monkeypatch.setattr(faster_training, "find_spec", lambda name: name)  # triton comes with torch for CUDA only
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    model = nn.Linear(2, 2)
    with faster(model, cuda, ()):
        assert model._compiled_call_impl is None
    line = "bf16, tf32, flash, prefetch; without compile: no C compiler is found; install gcc"
    assert describe(cuda, torch.bfloat16, ()) == line
    assert describe(cuda, torch.float16, ("compile",)) == "fp16, tf32, flash, prefetch"
    (tmp_path / "gcc").touch(mode=0o755)
    with faster(model, cuda, ()):
        assert model._compiled_call_impl is not None
    assert describe(cuda, torch.bfloat16, ()) == "bf16, tf32, compile, flash, prefetch"
    header.unlink()
    assert "Python.h is missing; install Python's headers (python3-dev)" in describe(cuda, torch.bfloat16, ())
    monkeypatch.setattr(faster_training, "find_spec", lambda name: None)
    assert describe(cuda, torch.bfloat16, ()).endswith("; without compile: triton is not installed")


def test_more_processes_than_gpus_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    variables = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in {**variables, "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert device.pick_device("auto") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        UserError, match="process 2 of this machine has no GPU: torch finds 2; start --nproc_per_node=2"
    ):
        device.pick_device("auto")


def test_auto_with_several_processes_is_no_metal_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.pick_device("auto").type == "mps"
    variables = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert device.pick_device("auto").type == "cpu"
    with pytest.raises(UserError, match="2 processes can't share a Metal device; start one, or --device cpu"):
        device.pick_device("mps")


def test_a_batch_is_copied_to_a_cpu_as_it_is() -> None:
    batch = {"idx": torch.arange(3), "targets": torch.arange(3) + 1}
    copied = device.to_device(batch, CPU)
    assert list(copied) == ["idx", "targets"] and all(torch.equal(copied[name], batch[name]) for name in batch)
    assert all(tensor.is_meta for tensor in device.to_device(batch, torch.device("meta")).values())
    device.synchronize(CPU)


def test_only_copies_from_pinned_memory_to_cuda_are_asynchronous(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, bool]] = []

    class Source:
        pinned = False

        def pin_memory(self) -> "Source":
            self.pinned = True
            return self

        def to(self, target: torch.device, non_blocking: bool = False) -> "Source":
            calls.append((target.type, non_blocking))
            assert self.pinned == non_blocking
            return self

    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    for name in ("cpu", "mps", "cuda"):
        device.to_device({"idx": Source()}, torch.device(name))  # type: ignore[dict-item]
        device.synchronize(torch.device(name))
    assert calls == [("cpu", False), ("mps", False), ("cuda", True)]
    assert waited == [torch.device("mps"), torch.device("cuda")]


def test_without_the_compiler_training_is_the_same(tmp_path: Path, book: Path) -> None:
    """Muon's step is AdamW's for vectors and tables. The compiler isn't imported where nothing is compiled; where it is imported already, torch's own step runs."""
    small = ["--model.n-layer", "1", "--model.block-size", "16", "--batch-size", "2", "--eval-tokens", "50"]
    line = ["train", "char-transformer", *small, "--optimizer", "muon", "--input.text", str(book), "--steps", "4"]
    for name, before, after in (
        ("without", "", "assert 'torch._dynamo' not in sys.modules"),
        ("with", "import torch._dynamo", "assert isinstance(torch.optim.Adam.step.__wrapped__, object)"),
    ):
        script = f"import sys, torch\n{before}\nfrom pealm_core.cli import main\ntry: main()\nfinally: {after}"
        command = [sys.executable, "-c", script, *line, "--out", name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    one, two = (read_tensors(tmp_path / name / "best" / "model.safetensors")[0] for name in ("without", "with"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
