"""The weights of inference: the same results in fp32, near ones from int8, and less memory."""

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pealm_core
from pealm_core.contract.errors import UserError
from pealm_core.hardware.inference_weights import _run_under_autocast, _uses, bytes_per_token, prepare, read_bandwidth
from pealm_core.inference.scoring import score
from pealm_cpu.int4 import Int4Weight
from pealm_cpu.int8 import Int8Weight
from pealm_cpu.linear_weight import RowWeight, _blocks

FAMILIES = {
    "gpt2": ("pealm_gpt2.model", "GPT2", "pealm_gpt2.config", "GPT2Config"),
    "sprout": ("pealm_sprout.model", "Sprout", "pealm_sprout.config", "SproutConfig"),
    "char-transformer": (
        "pealm_char_transformer.model",
        "Transformer",
        "pealm_char_transformer.config",
        "TransformerConfig",
    ),
}


def family(name: str, n_embd: int = 192, **changes: Any) -> nn.Module:
    """Make a small model of a family and add noise to all of its weights."""
    module, model, settings, config = FAMILIES[name]
    made = pytest.importorskip(settings).__dict__[config](
        vocab_size=515, block_size=16, n_layer=2, n_head=2, n_embd=n_embd, **changes
    )
    torch.manual_seed(0)
    built: nn.Module = pytest.importorskip(module).__dict__[model](made).eval()
    for parameter in built.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return built


def logits(model: nn.Module, idx: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(idx)[0]
    return found


def kinds(model: nn.Module) -> set[type]:
    return {type(parameter) for module in model.modules() for parameter in module._parameters.values()}


@pytest.mark.parametrize("cpu", ["AuthenticAMD", "GenuineIntel"])
@pytest.mark.parametrize("name", FAMILIES)
def test_faster_products_change_nothing(name: str, cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_cpu.linear_weight.cpuinfo", lambda: cpu)
    _blocks.cache_clear()
    model = family(name)
    fast = prepare(copy.deepcopy(model))
    assert RowWeight in kinds(fast)
    state = fast.state_dict()
    assert all(
        type(tensor) is Tensor and torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items()
    )
    for rows, tokens in ((1, 1), (2, 1), (5, 1), (70, 1), (1, 9), (4, 9)):
        idx = torch.randint(515, (rows, tokens), generator=torch.Generator().manual_seed(rows))
        torch.testing.assert_close(logits(fast, idx), logits(model, idx), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_int8_logits_are_near_and_their_memory_a_quarter(name: str) -> None:
    model = family(name)
    small = prepare(copy.deepcopy(model), "int8")
    idx = torch.randint(515, (3, 16), generator=torch.Generator().manual_seed(0))
    exact, found = logits(model, idx), logits(small, idx)
    assert 0 < (found - exact).norm() < 0.05 * exact.norm()
    assert bytes_per_token(small) < 0.27 * bytes_per_token(model)
    with torch.inference_mode():
        assert torch.isfinite(small(idx, idx)[1])  # a loss, too
    assert all(torch.isfinite(tensor).all() for tensor in small.state_dict().values())


@pytest.mark.parametrize("name", FAMILIES)
def test_bf16_logits_are_near(name: str) -> None:
    model = family(name)
    idx = torch.randint(515, (2, 16), generator=torch.Generator().manual_seed(0))
    exact, found = logits(model, idx), logits(prepare(copy.deepcopy(model).bfloat16()), idx)
    assert found.dtype == torch.bfloat16 and (found.float() - exact).norm() < 0.05 * exact.norm()
    with torch.inference_mode():
        cache = model.bfloat16().make_cache(2, 16)  # type: ignore[operator]
        stepped = torch.cat([model(idx[:, i : i + 1], cache=cache)[0] for i in range(16)], dim=1)
    assert (stepped.float() - exact).norm() < 0.05 * exact.norm()


def test_what_a_token_reads() -> None:
    model = family("gpt2")
    found = {id(weight) for weight in _uses(model)["weight"].values()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in found}
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert names == {"wte.weight"} | {f"h.{i}.{name}.weight" for i in range(2) for name in layers}
    assert len(_uses(prepare(copy.deepcopy(model)))["weight"]) == len(names)
    assert len(_uses(prepare(model, "int8"))["weight"]) == len(names)


def test_a_tied_weight_stays_tied() -> None:
    model = prepare(family("gpt2"), "int8")
    weight, table = model.get_parameter("wte.weight"), model.get_submodule("wte")
    assert isinstance(weight, Int8Weight) and weight.dtype == torch.float32
    row = table(torch.tensor([7]))
    assert torch.equal(row[0], weight.plain()[7]) and torch.equal(row[0], weight[7])


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_those_of_the_plain_model(name: str) -> None:
    model = family(name)
    ids = torch.randint(515, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    requests = [(ids[:9], ids[9:12]), (ids[:9], ids[20:24]), (ids[3:5], ids[5:30])]
    exact = [found.log_prob for found in score(model, requests)]
    fast = [found.log_prob for found in score(prepare(copy.deepcopy(model)), requests)]
    assert fast == pytest.approx(exact, abs=1e-3)
    small = [found.log_prob for found in score(prepare(copy.deepcopy(model), "int8"), requests)]
    assert small == pytest.approx(exact, rel=0.01)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--quantize int3: unknown; use int8 or int4"):
        prepare(family("gpt2"), "int3")


@pytest.mark.parametrize("name", ["gpt2-shakespeare", "sprout-shakespeare"])
def test_int4_of_a_trained_model_loses_less_than_a_percent(name: str) -> None:
    text = "ROMEO:\nWhat light is this that breaks?\n\nJULIET:\nIt is the moon, my lord; the sun is gone.\n" * 6
    losses = []
    for quantize in (None, "int4"):
        lm = pealm_core.load(Path(__file__).parents[2] / "weights" / name, device="cpu", quantize=quantize)
        losses.append(-sum(lm.logprobs(text)))
    used = kinds(lm.model)
    assert Int4Weight in used and Int8Weight in used  # the head and the embeddings
    assert losses[1] != losses[0] and losses[1] < 1.01 * losses[0]


def test_a_bandwidth_is_a_number_of_bytes() -> None:
    assert 1e8 < read_bandwidth() < math.inf


def test_int8_of_a_trained_model(shakespeare: Path, tmp_path: Path, pealm: Callable[..., Any]) -> None:
    args = ["train", "char-transformer", "--input.text", str(shakespeare), "--steps", "60", "--block-size", "64"]
    args += ["--eval-every", "0", "--out", str(tmp_path / "run"), "--lr", "3e-3", "--warmup-steps", "10"]
    args += ["--batch-size", "16", "--model.n-layer", "2", "--model.n-embd", "64", "--model.n-head", "2"]
    subprocess.run([sys.executable, "-m", "pealm", *args], check=True, capture_output=True)
    losses = []
    for quantize in (None, "int8"):
        lm = pealm_core.load(tmp_path / "run", device="cpu", quantize=quantize)
        text = shakespeare.read_text()[-20_000:]
        logprobs = lm.logprobs(text)
        losses.append(-sum(logprobs) / len(logprobs))
    exact, found = losses
    assert exact < 3.0  # it has learned more than the letters' shares
    assert found < 1.005 * exact
    result = pealm("sample", "--ckpt", tmp_path / "run", "--quantize", "int8", "-n", 40, "--device", "cpu", "--stats")
    assert result.code == 0 and len(result.out) == 41 and "% of the measured" in result.err


def autocast(model: nn.Module, idx: Tensor, **more: Any) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        result: Tensor = model(idx, **more)[0]
    return result


@pytest.mark.parametrize("name", [*FAMILIES, "sprout-tied"])
def test_bf16_has_the_numerics_of_training(name: str) -> None:
    model = family("sprout", untied=False, value_residual=True) if name == "sprout-tied" else family(name)
    low = prepare(copy.deepcopy(model), dtype=torch.bfloat16)
    copied = copy.deepcopy(low)
    idx = torch.randint(515, (2, 16), generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits(low, idx), autocast(model, idx))
    assert torch.equal(logits(copied, idx), autocast(model, idx))
    with torch.inference_mode():
        cache, exact = low.make_cache(2, 16), model.make_cache(2, 16)  # type: ignore[operator]
        for i in range(16):  # the cache holds bf16, which attention in training rounds to
            part = idx[:, i : i + 1]
            assert torch.equal(low(part, cache=cache)[0], autocast(model, part, cache=exact))
    keys = getattr(cache, "attention", cache)._layers[0][0]
    assert keys.dtype == torch.bfloat16
    assert all(buffer.dtype == torch.float32 for buffer in low.buffers())
    assert bytes_per_token(low) < 0.52 * bytes_per_token(model)
    kept = {name for name, tensor in low.state_dict().items() if tensor.dtype == torch.float32}
    assert kept and not any(part in name for name in kept for part in ("qkv", "proj", "up.", "down.", "c_fc"))


def test_int8_beside_bf16_keeps_fp32_where_training_does() -> None:
    model = family("sprout")
    low = prepare(copy.deepcopy(model), "int8", torch.bfloat16)
    idx = torch.randint(515, (2, 16), generator=torch.Generator().manual_seed(0))
    exact = logits(model, idx)
    assert (logits(low, idx).float() - exact).norm() < 0.05 * exact.norm()
    assert {tensor.dtype for name, tensor in low.named_parameters() if "temperature" in name} == {torch.float32}


def test_a_method_that_calls_another_leaves_no_autocast_behind() -> None:
    class Nested(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(4, 4)

        def unembed(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x)

        def forward(self, idx: torch.Tensor, targets: None = None) -> tuple[torch.Tensor, None]:
            return self.unembed(torch.nn.functional.one_hot(idx, 4).float()), None

    model = Nested()
    _run_under_autocast(model, torch.bfloat16)
    logits, _ = model(torch.tensor([[0, 1]]))
    assert logits.dtype == torch.bfloat16 and not torch.is_autocast_enabled("cpu")
