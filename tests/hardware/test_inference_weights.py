"""The weights of inference: the same results in fp32, near ones from int8, and less memory."""

import copy
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pealm_core
from pealm_core.contract.errors import UserError
from pealm_core.hardware import kernels
from pealm_core.hardware.inference_weights import _run_under_autocast, _uses, bytes_per_token, prepare, read_bandwidth
from pealm_core.hardware.int4 import Int4Weight
from pealm_core.hardware.int8 import Int8Weight
from pealm_core.hardware.linear_weight import RowWeight, _blocks
from pealm_core.hardware.optimizations import _OneDNN
from pealm_core.inference.scoring import score

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


def test_int8_is_the_nearest_of_255_levels_in_each_row() -> None:
    weight = torch.tensor([[1.27, -0.634, 0.0], [-254.0, 3.1, 0.9], [0.0, 0.0, 0.0]])
    found = Int8Weight.of(weight)
    assert found.parts[0].tolist() == [[127, -63, 0], [-127, 2, 0], [0, 0, 0]]
    torch.testing.assert_close(found.parts[1][:2, 0], torch.tensor([0.01, 2.0]))
    torch.testing.assert_close(found.plain(), torch.tensor([[1.27, -0.63, 0], [-254.0, 4.0, 0], [0, 0, 0]]))


def test_an_int8_product_is_exact_where_nothing_is_rounded() -> None:
    weight = torch.tensor([[127.0, -3, 5], [254, 0, -2]])
    x = torch.tensor(
        [[[127.0, 1, -2]], [[0, -254, 4]]]
    )  # (2, 1, 3): whole numbers of -127 to 127, doubled in one row
    bias = torch.tensor([0.5, -torch.inf])
    found = F.linear(x, Int8Weight.of(weight), bias)
    torch.testing.assert_close(found, F.linear(x, weight, bias))


def test_an_int8_row_is_the_same_in_every_batch() -> None:
    torch.manual_seed(0)
    weight, x, bias = Int8Weight.of(torch.randn(24, 40)), torch.randn(80, 1, 40), torch.randn(24)
    alone = torch.stack([F.linear(row, weight, bias) for row in x])  # of 40 numbers: never in bf16
    for rows in (2, 5, 64, 80):
        torch.testing.assert_close(F.linear(x[:rows], weight, bias), alone[:rows], atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(F.linear(x[:, 0], weight, bias), alone[:, 0], atol=1e-5, rtol=1e-6)


def test_one_int8_row_is_multiplied_in_bf16_without_a_matrix_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "library", lambda: None)
    monkeypatch.setattr("pealm_core.hardware.int8._int8_unit", lambda: False)
    torch.manual_seed(0)
    weight, x, bias = Int8Weight.of(torch.randn(48, 96)), torch.randn(8, 1, 96), torch.randn(48)
    for b in (None, bias):
        exact = F.linear(x, weight.plain(), b)
        alone, batch = torch.stack([F.linear(row, weight, b) for row in x]), F.linear(x, weight, b)
        errors = [float((found - exact).norm() / exact.norm()) for found in (alone, batch)]
        assert 0 < errors[0] < 0.005 and errors[1] < 0.015 and errors[0] < errors[1]
        assert alone.dtype == torch.float32


def test_one_int8_row_is_as_in_a_batch_with_a_matrix_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "library", lambda: None)
    monkeypatch.setattr("pealm_core.hardware.int8._int8_unit", lambda: True)
    torch.manual_seed(0)
    weight, x, bias = Int8Weight.of(torch.randn(48, 96)), torch.randn(8, 1, 96), torch.randn(48)
    alone = torch.stack([F.linear(row, weight, bias) for row in x])
    torch.testing.assert_close(F.linear(x, weight, bias), alone, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(F.linear(x.transpose(0, 1), weight, bias)[0], alone[:, 0], atol=1e-5, rtol=1e-6)


in_c = pytest.mark.skipif(
    shutil.which("cc") is None or "CC" in os.environ or not [*Path(torch.__file__).parent.glob("lib/libgomp*")],
    reason="no C compiler, or another one, or torch without its OpenMP",
)


@in_c
@torch.inference_mode()
@pytest.mark.parametrize("k", [1, 15, 64, 300])
def test_a_few_rows_are_multiplied_in_c(k: int) -> None:
    torch.manual_seed(0)
    weight, bias, x = RowWeight(torch.randn(35, k)), torch.randn(35), torch.randn(9, 1, k)
    for rows in range(2, 10):
        torch.testing.assert_close(F.linear(x[:rows], weight, bias), F.linear(x[:rows], weight.weight, bias))
        assert (weight._packed is None) == (rows < 9)  # oneDNN multiplies nine
    few = F.linear(x[:8], weight)
    for rows in range(2, 9):
        assert torch.equal(F.linear(x[8 - rows : 8], weight), few[8 - rows :])  # the same row in every batch
    sliced = torch.randn(2, 1, 2 * k)[..., ::2], torch.randn(70)[::2]
    torch.testing.assert_close(F.linear(sliced[0], weight, sliced[1]), F.linear(sliced[0], weight.weight, sliced[1]))
    with pytest.raises(RuntimeError, match=r"shape|size|primitive"):
        F.linear(torch.ones(2, 1, k + 1), weight)
    with pytest.raises(RuntimeError, match=r"expand|shape|size"):
        F.linear(x[:2], weight, torch.ones(3))


@in_c
def test_a_prompt_of_a_few_tokens_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    used, own = list[Any](), kernels.linear
    monkeypatch.setattr(kernels, "linear", lambda *given: used.append(given) or own(*given))
    weight = RowWeight(torch.randn(6, 4))
    with torch.inference_mode():
        F.linear(torch.randn(1, 3, 4), weight)
        assert not used
        F.linear(torch.randn(1, 1, 4), weight)
        F.linear(torch.randn(1, 3, 4), weight)  # guesses of what follows
        assert len(used) == 1


@in_c
@pytest.mark.parametrize("k", [1, 31, 96, 3072])
def test_a_product_in_c_is_that_of_torch(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight, x, bias = torch.randn(k, 35).t(), torch.randn(8, 1, 2 * k)[..., ::2], torch.randn(35)
    x[1], x[2, 0, 0], x[3, 0, -1] = 0, torch.nan, torch.inf
    assert kernels.library() is not None
    both, inputs = list[Tensor](), (x, x[:1], x.bfloat16(), x[:5].transpose(0, 1))
    for library in (kernels.library(), None):
        monkeypatch.setattr(kernels, "library", lambda library=library: library)
        monkeypatch.setattr("pealm_core.hardware.int8._int8_unit", lambda: True)  # never in bf16
        both.append(torch.cat([F.linear(rows, Int8Weight.of(weight)).float().flatten() for rows in inputs]))
        both.append(F.linear(x, Int8Weight.of(weight), bias))
    for ours, theirs in zip(both[:2], both[2:], strict=True):
        finite = ours.isfinite()
        assert 0 < int(finite.sum()) < finite.numel()
        assert torch.equal(finite, theirs.isfinite())  # what is not a number doesn't become one
        assert torch.equal(ours[finite], theirs[finite])


def test_an_input_of_another_width_is_an_error() -> None:
    weight = Int8Weight.of(torch.randn(6, 4))
    assert F.linear(torch.ones(1, 4), weight, torch.ones(6, 2)[:, 0]).shape == (1, 6)
    with pytest.raises(RuntimeError, match=r"expand|size|shape"):
        F.linear(torch.ones(1, 4), weight, torch.ones(3))
    for shape in ((1, 8), (2, 2), (4, 1)):
        with pytest.raises(RuntimeError, match=r"shape|size|primitive"):
            F.linear(torch.ones(shape), weight)
    assert F.linear(torch.ones(0, 4), weight).shape == (0, 6)


@pytest.mark.parametrize("compiler", ["", "no-such-compiler", "false", "'"])
def test_no_compiler(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler)
    assert kernels.library.__wrapped__() is None
    monkeypatch.setattr(kernels, "library", kernels.library.__wrapped__)
    assert F.linear(torch.ones(1, 4), Int8Weight.of(torch.ones(2, 4))).tolist() == [[4, 4]]


@pytest.mark.parametrize("cpu", ["AuthenticAMD", "GenuineIntel"])
@pytest.mark.parametrize("name", FAMILIES)
def test_faster_products_change_nothing(name: str, cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_core.hardware.linear_weight.cpuinfo", lambda: cpu)
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


def test_after_many_rows_a_weight_is_copied_in_the_order_of_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_core.hardware.linear_weight.PAYS", 60)
    torch.manual_seed(0)
    layer, x = nn.Linear(300, 400), torch.randn(2, 20, 300)
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    layer._parameters["weight"] = weight = RowWeight(layer.weight.detach())  # type: ignore[assignment]
    with _OneDNN():
        layer(x), layer(x)  # with gradients: not counted
        with torch.inference_mode():
            for packed in (False, True):
                torch.testing.assert_close(layer(x).double(), exact, atol=1e-5, rtol=0)
                assert (weight._packed is not None) == packed
            torch.testing.assert_close(F.linear(x, weight).double(), exact - layer.bias, atol=1e-5, rtol=0)
            assert layer(x[:, :0]).shape == (2, 0, 400) and layer(x[:1, :1]).shape == (1, 1, 400)
            assert F.linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16


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


def test_int4_is_the_nearest_of_16_levels_in_each_group() -> None:
    torch.manual_seed(0)
    levels = torch.randint(16, (16, 4, 32)).float()
    levels[:, :, 0], levels[:, :, 1] = 0, 15
    scale, low = 2.0 ** torch.randint(-3, 3, (16, 4, 1)), torch.randint(-16, 1, (16, 4, 1))
    weight = (scale * (levels + low)).flatten(1)
    found = Int4Weight.of(weight)
    assert torch.equal(found.plain(), weight) and found.nbytes < 0.17 * weight.nbytes
    x, bias = torch.randn(3, 5, 128), torch.randn(16)
    exact, product = F.linear(x, weight, bias), F.linear(x, found, bias)
    assert product.shape == exact.shape and (product - exact).norm() < 0.01 * exact.norm()


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
