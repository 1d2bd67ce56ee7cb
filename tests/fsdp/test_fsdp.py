"""FSDP: sharded runs learn what one process learns; `scripts/proof/sharded.py` does the same with four processes."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.overrides import TorchFunctionMode

import pealm_core
from pealm_core import PluginHost
from pealm_fsdp.config import FSDPConfig
from pealm_fsdp.deferred import Deferred, named_tensors
from pealm_fsdp.strategy import FullyShard, blocks, recompute
from pealm_testing import StrategyConformance

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "proof"))
import sharded

WORDS = f"{sharded.MODELS['gpt2']} --input.text book.txt {sharded.EXACT} --eval-every 3 --steps 6"


class TestFullyShard(StrategyConformance):
    """In one process it changes nothing."""

    spec = "fsdp"
    configs: ClassVar[Any] = [{}, {"weights": "bf16", "activation_checkpointing": True, "reshard": False}]


def test_a_killed_process_ends_a_sharded_run_which_resumes_with_another_number_of_processes(
    pealm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    Path("kill.py").write_text(sharded.KILL)
    done = pealm("train", *WORDS.split(), "--out", "one")
    assert done.code == 0, done.err
    parts = "--strategy fsdp --strategy.checkpoints sharded"
    ended = sharded.pealm(tmp_path, 2, f"--plugin kill.py train {WORDS} {parts} --out two")
    assert ended.returncode and "Signal 9 (SIGKILL)" in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stdout and [row["step"] for row in sharded.rows(Path("two"))][:3] == [1, 2, 3]

    step = Path("two", "checkpoints", "step-00000003")
    assert len([*step.glob("shards/*.safetensors")]) == 2 and not (step / "model.safetensors").exists()
    done = pealm("sample", "--ckpt", step)
    assert done.code == 2 and f"pealm convert {step} OUT --from sharded" in done.err
    assert pealm("convert", step, "converted", "--from", "sharded").code == 0
    assert pealm("sample", "--ckpt", "converted", "-n", 5).code == 0
    full, converted = (load_file(folder / "model.safetensors") for folder in (Path("two/best"), Path("converted")))
    assert full.keys() == converted.keys() and all(torch.equal(full[name], converted[name]) for name in full)

    damaged = Path(shutil.copytree("two", "damaged"), "checkpoints", step.name)
    shard = min(damaged.glob("shards/*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    done = pealm("convert", damaged, "other", "--from", "sharded")
    assert done.code == 2 and "is damaged" in done.err and not Path("other").exists()
    done = pealm("train", "--out", "damaged")
    assert done.code == 0 and "skipped: " in done.out and "no valid checkpoint yet" in done.out

    done = pealm("train", "--out", "two", "--strategy", "ddp")
    assert done.code == 2 and f"{step} is sharded" in done.err and "Traceback" not in done.err
    done = pealm("train", "--out", "two", "--strategy", "fsdp", "--strategy.checkpoints", "full")
    assert done.code == 0 and f"resuming from {step}" in done.out, done.err
    assert sharded.difference(Path("one"), Path("two")) < 1e-3


def test_a_deferred_model_gets_the_weights_of_an_ordinary_one() -> None:
    everything = {"value_residual": True, "embedding_skip": True, "smear": 3, "ngram": 2, "ngram_rows": 20}
    for name, more in (
        ("gpt2", {}),
        ("llama", {"n_kv_head": 1}),
        ("sprout", everything),
        ("sprout", {"untied": False, "rotary": False}),
    ):
        entry = PluginHost.installed().find(pealm_core.ModelSpec, name)
        config = entry.config(n_layer=2, n_embd=16, n_head=2, block_size=8, vocab_size=11, **more)
        torch.manual_seed(3)
        ordinary, after = entry.make(config), torch.rand(1)
        torch.manual_seed(3)
        deferred = Deferred(lambda entry=entry, config=config: entry.make(config))  # type: ignore[misc]
        assert all(t.is_meta for _, t in named_tensors(deferred.model))
        weights: dict[str, torch.Tensor] = {}
        deferred.fill(lambda name, tensor: weights.update({name: tensor.clone()}))  # noqa: B023
        own = dict(named_tensors(ordinary))
        assert weights.keys() == own.keys() and all(torch.equal(weights[key], own[key]) for key in own)
        assert torch.equal(torch.rand(1), after)


class Forgetful(nn.Module):
    """A model whose `init_weights` forgets a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Set one of them."""
        nn.init.zeros_(self.first.weight)


def test_a_parameter_that_init_weights_forgets_is_named() -> None:
    with pytest.raises(pealm_core.PluginError, match=r"Forgetful does not set second\.weight"):
        Deferred(Forgetful)


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


@pytest.mark.slow
def test_the_proof_with_two_and_four_processes() -> None:
    code = "import sys, sharded; sys.argv = ['sharded']; sharded.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=sharded.__file__.rpartition("/")[0], check=False)
    assert done.returncode == 0


def test_recomputation_runs_in_the_function_modes_of_the_forward_pass() -> None:
    """As pealm's attention for AMD CPUs is one: without it, a recomputed block would save other tensors."""

    class Cosine(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return torch.cos(*args).square() if func is torch.sin else func(*args, **(kwargs or {}))

    class Sine(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(x)

    block, x = Sine(), torch.ones(2, requires_grad=True)
    recompute(block)
    with Cosine():
        block(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, -torch.sin(2 * torch.ones(2)))  # of cos(x) squared
