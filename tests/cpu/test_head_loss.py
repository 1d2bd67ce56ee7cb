"""The loss of a head, trained or not, beside F.cross_entropy on all logits."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pealm_core import IGNORE, head_loss


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("masked", [0.0, 0.05, 0.7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_loss_and_gradients(dtype: Any, masked: float, trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_cpu.cross_entropy.ROWS", 7)
    monkeypatch.setattr("pealm_cpu.cross_entropy.CACHED", 3 * 40)
    torch.manual_seed(0)
    weight, bias = torch.randn(40, 8, dtype=dtype).requires_grad_(trained), torch.randn(40, dtype=dtype)
    bias[-3:] = -torch.inf  # rows beyond the vocabulary
    targets = torch.randint(37, (3, 9)).masked_fill(torch.rand(3, 9) < masked, IGNORE)
    results = []
    for loss in (head_loss, _plain):
        x = torch.randn(3, 9, 8, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()
        value = loss(x, weight, bias, targets)
        assert loss is _plain or value.dtype == torch.promote_types(dtype, torch.float32)
        (3 * value).backward()
        gradients = [x.grad, weight.grad] if trained else [x.grad]
        results.append([value.detach().double(), *(g.double() for g in gradients)])  # type: ignore[union-attr]
        weight.grad = None
    tolerance = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=tolerance, rtol=tolerance)


def test_autocast() -> None:
    """The gradients of fp32 weights are fp32, from products in bf16."""
    torch.manual_seed(0)
    targets, results = torch.randint(40, (2, 9)), []
    for loss in (head_loss, _plain):
        x, weight = (torch.randn(*size, generator=torch.Generator().manual_seed(1)) for size in ((2, 9, 8), (40, 8)))
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(x.requires_grad_(), weight.requires_grad_(), None, targets)
        value.backward()
        results.append((value.detach(), x.grad, weight.grad))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-3, rtol=2e-2)


def test_some_rows_at_a_time_and_no_logits_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_cpu.cross_entropy.ROWS", 64)
    x, weight, targets = torch.randn(1, 512, 8), torch.randn(1000, 8), torch.randint(1000, (1, 512))
    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **kwargs or {})
            sizes.extend([result.numel()] if isinstance(result, torch.Tensor) else [])
            return result

    with Sizes():
        head_loss(x.requires_grad_(), weight.requires_grad_(), None, targets).backward()
    assert max(sizes) == 64 * 1000


def test_gradients_are_given_once() -> None:
    """They are not kept in memory for a second backward pass."""
    value = head_loss(torch.randn(1, 5, 8).requires_grad_(), torch.randn(11, 8), None, torch.zeros(1, 5).long())
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()


@pytest.mark.parametrize("scored", [0, 1])
@pytest.mark.parametrize("trained", [False, True])
def test_few_or_no_targets(trained: bool, scored: int) -> None:
    """The mean of no losses is NaN with and without gradients, which are 0."""
    x, weight, targets = torch.randn(2, 5, 8), torch.randn(11, 8), torch.full((2, 5), IGNORE)
    targets[:scored, 3] = 7
    value = head_loss(x.requires_grad_(), weight.requires_grad_(trained), None, targets)
    value.backward()
    with torch.no_grad():
        torch.testing.assert_close(head_loss(x, weight, None, targets), value.detach(), equal_nan=True)
        plain = F.cross_entropy(x[0, 3] @ weight.T, torch.tensor(7)) if scored else torch.tensor(torch.nan)
    torch.testing.assert_close(value.detach(), plain, equal_nan=True)
    assert x.grad is not None and x.grad.any(-1).sum() == scored and not x.grad.isnan().any()
    assert not trained or (weight.grad is not None and bool(weight.grad.any()) == bool(scored))


@pytest.mark.parametrize(("trained", "device"), [(True, "cpu"), (True, "meta"), (False, "meta")])
def test_tensors_without_data(trained: bool, device: str) -> None:
    """As `pealm estimate` has them."""
    with FakeTensorMode() if device == "cpu" else nullcontext():
        x, weight = torch.randn(2, 5, 8, device=device), torch.randn(11, 8, device=device)
        targets = torch.zeros(2, 5, dtype=torch.long, device=device)
        value = head_loss(x.requires_grad_(), weight.requires_grad_(trained), None, targets)
        value.backward()
        assert x.grad is not None and x.grad.shape == x.shape and not value.shape


def _plain(x: Any, weight: Any, bias: Any, targets: Any) -> Any:
    return F.cross_entropy(F.linear(x, weight, bias).flatten(0, 1), targets.flatten())


@pytest.mark.parametrize("trained", [False, True])
def test_only_rows_that_are_scored_are_multiplied(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    targets = torch.randint(11, (2, 6)).masked_fill(torch.arange(12).view(2, 6) % 3 > 0, IGNORE)
    rows, mm = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda x, *args, **kwargs: rows.append(len(x)) or mm(x, *args, **kwargs))
    x, weight = torch.randn(2, 6, 8), torch.randn(11, 8)
    head_loss(x.requires_grad_(), weight.requires_grad_(trained), None, targets).backward()
    assert rows == [4]


@pytest.mark.parametrize("case", ["nothing is trained", "no gradients"])
def test_otherwise_it_is_the_plain_loss_to_the_bit(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_cpu.cross_entropy._Head", None)
    x, weight, targets = torch.randn(2, 5, 8), torch.randn(11, 8), torch.randint(11, (2, 5))
    x.requires_grad_(case != "nothing is trained")
    weight.requires_grad_(case == "no gradients")
    with torch.set_grad_enabled(case != "no gradients"):
        assert torch.equal(head_loss(x, weight, None, targets), _plain(x, weight, None, targets))
