"""Weights of 8 and 4 bits, and of fp32: each product is torch's, in another order of sums at most."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pealm_cpu import Int4Weight, Int8Weight, RowWeight, kernels
from pealm_cpu.onednn import _OneDNN


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
    monkeypatch.setattr("pealm_cpu.int8._int8_unit", lambda: False)
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
    monkeypatch.setattr("pealm_cpu.int8._int8_unit", lambda: True)
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
        monkeypatch.setattr("pealm_cpu.int8._int8_unit", lambda: True)  # never in bf16
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


def test_after_many_rows_a_weight_is_copied_in_the_order_of_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_cpu.linear_weight.PAYS", 60)
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
