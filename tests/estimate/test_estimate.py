"""`pealm estimate`: counts have closed forms, and tensors without data cost what real ones cost."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from pealm_core import PluginHost, depth_preset
from pealm_core.contract.specs import ModelSpec, OptimizerSpec
from pealm_estimate import ledger, mfu
from pealm_gpt2.model import padded
from pealm_testing import CommandConformance

L, C, T, V = 2, 32, 16, 64
SIZES = ["--model.n-layer", L, "--model.n-embd", C, "--model.n-head", 2, "--model.block-size", T]
SPEED = ["--tflops", 1, "--mfu", 0.5]  # not that of this machine


class TestEstimate(CommandConformance):
    """The command as `pealm` runs it."""

    spec = "estimate"
    arguments: ClassVar[Any] = ["char-transformer", "--vocab-size", "20", "--tflops", "1"]


@pytest.fixture
def estimate(pealm: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    def run(*words: object) -> dict[str, Any]:
        done = pealm("estimate", "gpt2", *SIZES, "--vocab-size", V, "--dtype", "fp32", "--json", *words)
        assert done.code == 0, done.err
        facts: dict[str, Any] = json.loads(done.out)
        return facts

    return run


def gpt2() -> torch.nn.Module:
    entry = PluginHost.installed().find(ModelSpec, "gpt2")
    assert entry.config is not None
    model: torch.nn.Module = entry.make(entry.config(vocab_size=V, n_layer=L, n_embd=C, n_head=2, block_size=T))
    return model


def adamw(model: torch.nn.Module) -> Any:
    entry = PluginHost.installed().find(OptimizerSpec, "adamw")
    assert entry.config is not None
    return entry.make(entry.config(), model, lr=0.1)


def test_weights_gradients_and_moments_are_counted(estimate: Callable[..., Any]) -> None:
    facts, parameters = estimate(*SPEED, "--batch-size", 4), list(gpt2().parameters())
    size = sum(parameter.nbytes for parameter in parameters)
    assert facts["parameters"] == sum(parameter.numel() for parameter in parameters)
    assert facts["gradients"] == size
    assert facts["optimizer"] == 2 * size + 4 * len(parameters)  # AdamW's two moments and a step count
    sharded = estimate(*SPEED, "--batch-size", 4, "--processes", 2, "--strategy", "fsdp")
    assert sharded["optimizer"] == facts["optimizer"] // 2
    copies = estimate(*SPEED, "--batch-size", 4, "--processes", 2)
    assert copies["optimizer"] == facts["optimizer"] and copies["micro_batch_size"] == 2


def test_time_and_price_follow_from_peak_and_work(estimate: Callable[..., Any]) -> None:
    facts = estimate(*SPEED, "--batch-size", 4, "--steps", 1000, "--price", 3.6, "--processes", 2)
    seconds = 1000 * facts["flops_per_token"] * 4 * T / (2 * 0.5e12)
    assert facts["seconds"] == pytest.approx(seconds) and facts["cost"] == pytest.approx(2 * 3.6 * seconds / 3600)
    assert facts["mfu"] == pytest.approx(0.5)


def test_memory_grows_with_the_micro_batch_and_shrinks_with_recomputation(estimate: Callable[..., Any]) -> None:
    memory = estimate(*SPEED, "--batch-size", 8)["memory"]
    totals = [memory[rows]["total"] for rows in ("1", "2", "8")]
    assert totals == sorted(totals) and list(memory) == ["1", "2", "8"]
    wide = ("--batch-size", 32, "--micro-batch-size", 32, "--model.n-layer", 4)
    memory = estimate(*SPEED, *wide)["memory"]
    words = (*wide, "--strategy", "fsdp", "--strategy.activation-checkpointing", "true")
    recomputed = estimate(*SPEED, *words)["memory"]["32"]
    assert recomputed["activations"] < 0.5 * memory["32"]["activations"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_without_data_cost_what_real_ones_cost(dtype: torch.dtype) -> None:
    fake = ledger.cost(gpt2, adamw, micro_batch_size=3, block_size=T, dtype=dtype)
    real = ledger._count(gpt2(), adamw, 3, T, dtype)
    assert (fake.weights, fake.gradients, fake.optimizer) == (real.weights, real.gradients, real.optimizer)
    assert fake.working == pytest.approx(real.working, rel=0.02) and fake.flops == real.flops


def test_a_cpu_needs_room_between_small_blocks_only() -> None:
    """Blocks of 32 MiB or more are returned to the system one by one."""

    class Wide(torch.nn.Module):
        def __init__(self, rows: int) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(rows, 1024))

        def forward(self, idx: torch.Tensor, targets: torch.Tensor) -> tuple[None, torch.Tensor]:
            return None, self.weight.sum()

    def cost(rows: int) -> ledger.Cost:
        nothing = SimpleNamespace(step=lambda: None, zero_grad=lambda **options: None)
        sizes: dict[str, Any] = {"micro_batch_size": 1, "block_size": 8, "dtype": torch.float32}
        return ledger.cost(lambda: Wide(rows), lambda model: nothing, **sizes)

    assert cost(2**13 - 1).mapped == 0
    assert cost(2**13).mapped == 2**26 <= cost(2**13).memory(1)  # the weight and its gradient


def test_gaps_between_tensors_are_part_of_the_total(estimate: Callable[..., Any]) -> None:
    facts = estimate(*SPEED, "--batch-size", 4)
    memory = facts["memory"]["4"]
    tensors = facts["weights"] + facts["gradients"] + facts["optimizer"] + memory["activations"]
    assert tensors < memory["total"] < 1.5 * tensors


def test_training_and_its_estimate_use_the_same_kernels(
    estimate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On AMD CPUs training replaces attention by whole matrices of scores, which are kept for the backward pass."""
    monkeypatch.setattr("pealm_cpu.onednn.cpuinfo", lambda: "AuthenticAMD")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    words = ["--batch-size", 4, "--micro-batch-size", 4, "--model.block-size", 128]
    whole, plain = (
        estimate(*SPEED, *words, *more)["memory"]["4"]["activations"] for more in ((), ("--without", "onednn"))
    )
    assert whole > plain + (L - 1) * 4 * 2 * 128 * 128 * 4  # layers, B, heads, T, T, bytes


def test_the_work_of_a_token_has_a_closed_form() -> None:
    products = 12 * L * C * C + C * padded(V)  # weights of matrix products
    assert mfu.flops_per_token(gpt2(), T) == 6 * products + 12 * L * T * C


def test_mfu_is_a_metric_where_the_peak_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    model, settings = gpt2(), SimpleNamespace(block_size=None)

    class Trainer:
        world = SimpleNamespace(size=2)

    trainer: Any = Trainer()
    trainer.model, trainer.settings = model, settings
    mfu.start(trainer)
    metrics = {"tokens_per_second": 1e9}
    mfu.add(trainer, metrics)
    assert metrics["mfu"] == round(1e9 * mfu.flops_per_token(model, T) / (2 * 989e12), 4) > 0
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Another GPU")
    other: Any = Trainer()
    other.model, other.settings = model, settings
    mfu.start(other)
    mfu.add(other, unknown := {"tokens_per_second": 1e9})
    assert "mfu" not in unknown


def test_this_machine_is_timed_by_its_operations(pealm: Callable[..., Any]) -> None:
    """Also for a model that looks at its data, for which tensors without data are not enough."""
    sizes = ["--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2, "--model.block-size", 8]
    done = pealm("estimate", "sprout", *sizes, "--vocab-size", 20, "--batch-size", 4, "--steps", 10)
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines() if line[0] != " "] == [
        "model",
        "memory",
        "speed",
        "step",
        "run",
    ]
    assert "tokens/s" in done.out and "run         10 steps, " in done.out


def test_a_depth_sets_what_it_sets_for_training(pealm: Callable[..., Any]) -> None:
    done = pealm("estimate", "gpt2", "--depth", 1, "--vocab-size", V, "--dtype", "fp32", "--json", *SPEED)
    assert done.code == 0, done.err
    facts, chosen = json.loads(done.out), depth_preset(1)
    assert facts["steps"] == chosen["train"]["steps"]
    assert facts["tokens_per_step"] == chosen["train"]["batch_size"] * chosen["block_size"]


def test_what_is_missing_is_one_line(pealm: Callable[..., Any]) -> None:
    for words, message in (
        (
            ["gpt2", "--tokenizer", "char"],
            "the tokenizer char learns its vocabulary from the text: give --vocab-size",
        ),
        (["gpt2", "--vocab-size", 9, "--processes", 3], "--batch-size 512 is not divisible by --processes 3"),
        (["char-bigram", "--vocab-size", 9, "--tflops", 1], "char-bigram has no matrix products"),
        ([], "estimate needs a model: pealm estimate MODEL"),
    ):
        done = pealm("estimate", *words)
        assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1, done.err
