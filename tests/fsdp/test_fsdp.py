"""FSDP: sharded runs learn what one process learns; `scripts/proof/sharded.py` does the same with four processes."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import pealm_core
from pealm_fsdp.config import FSDPConfig
from pealm_fsdp.strategy import FullyShard, blocks
from pealm_testing import StrategyConformance

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "proof"))
import sharded

WORDS = f"{sharded.MODELS['gpt2']} --input.text book.txt {sharded.EXACT} --steps 6"


class TestFullyShard(StrategyConformance):
    """In one process it changes nothing."""

    spec = "fsdp"
    configs: ClassVar[Any] = [{}, {"weights": "bf16", "activation_checkpointing": True, "reshard": False}]


def test_a_killed_process_ends_the_run_which_resumes_with_another_number_of_processes(
    pealm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    Path("kill.py").write_text(sharded.KILL)
    done = pealm("train", *WORDS.split(), "--out", "one")
    assert done.code == 0, done.err
    ended = sharded.pealm(tmp_path, 2, f"--plugin kill.py train {WORDS} --strategy fsdp --out two")
    assert ended.returncode and "Signal 9 (SIGKILL)" in ended.stderr
    assert "Traceback" not in ended.stdout and [row["step"] for row in sharded.rows(Path("two"))][:3] == [1, 2, 3]
    done = pealm("train", "--out", "two", "--strategy", "ddp")
    assert done.code == 0 and "two/checkpoints/step-00000003" in done.out, done.err
    assert sharded.difference(Path("one"), Path("two")) < 1e-3
    assert pealm("convert", "two", "converted").code == 0
    assert pealm("sample", "--ckpt", "converted", "-n", 5).code == 0


def test_blocks_are_the_layers_and_not_the_lists_in_them() -> None:
    layer = nn.ModuleDict({"up": nn.Linear(2, 2), "experts": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
    model = nn.ModuleDict({"body": nn.ModuleDict({"layers": nn.ModuleList([layer, nn.Identity()])})})
    assert blocks(model) == [layer]
    assert blocks(nn.Linear(2, 2)) == []


def saved_bytes(model: nn.Module, idx: torch.Tensor) -> tuple[int, torch.Tensor, list[torch.Tensor]]:
    """Return the bytes that a forward pass keeps for the backward pass, the loss, and the gradients."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    torch.manual_seed(0)  # dropout
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(idx, idx)[1]
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return sum(kept.values()), loss, list(gradients)


def test_activation_checkpointing_keeps_less_and_computes_the_same(
    pealm: Callable[..., Any], tmp_path: Path, book: Path
) -> None:
    sizes = [
        "--model.block-size",
        "32",
        "--model.n-layer",
        "4",
        "--model.n-embd",
        "32",
        "--model.n-head",
        "2",
        "--model.dropout",
        "0.1",
    ]
    out = tmp_path / "r"
    assert pealm("train", "char-transformer", *sizes, "--input.text", book, "--steps", 1, "--out", out).code == 0
    model = pealm_core.load(out, device="cpu", dtype="fp32").model.train()
    idx = torch.arange(4 * 32).reshape(4, 32) % 20
    before, loss, gradients = saved_bytes(model, idx)
    strategy = FullyShard(FSDPConfig(activation_checkpointing=True))
    assert strategy.wrap(model) is model
    after, same, others = saved_bytes(model, idx)
    assert torch.equal(loss, same) and all(map(torch.equal, gradients, others))
    assert after < before / 3
    model.eval()
    with torch.inference_mode():
        model(idx, cache=model.make_cache(4, 32))
