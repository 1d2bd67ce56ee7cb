"""The loss of a head that is not trained, beside F.cross_entropy on all logits."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from pealm_core import IGNORE, head_loss


@pytest.mark.parametrize("masked", [0.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_loss_and_gradient(masked: float, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_core.inference.head_loss.ROWS", 7)
    torch.manual_seed(0)
    weight, bias = torch.randn(40, 8, dtype=dtype), torch.randn(40, dtype=dtype)
    bias[-3:] = -torch.inf  # rows beyond the vocabulary
    targets = torch.randint(37, (3, 9)).masked_fill(torch.rand(3, 9) < masked, IGNORE)
    results, rows = [], []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda x, *args: rows.append(x[..., 0].numel()) or linear(x, *args))
    for loss in (head_loss, _plain):
        x = torch.randn(3, 9, 8, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()
        value = loss(x, weight, bias, targets)
        assert loss is _plain or value.dtype == torch.promote_types(dtype, torch.float32)
        (3 * value).backward()
        results.append((value.detach().double(), x.grad.double()))  # type: ignore[union-attr]
    assert sum(rows[:-1]) == (targets != IGNORE).sum() and max(rows[:-1]) <= 7
    tolerance = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("scored", [0, 1])
def test_few_or_no_targets(scored: int) -> None:
    x, weight, targets = torch.randn(2, 5, 8), torch.randn(11, 8), torch.full((2, 5), IGNORE)
    targets[:scored, 3] = 7
    value = head_loss(x.requires_grad_(), weight, None, targets)
    value.backward()
    plain = F.cross_entropy(x[0, 3] @ weight.T, torch.tensor(7)) if scored else torch.tensor(0.0)
    torch.testing.assert_close(value, plain)
    assert x.grad is not None and x.grad.any(-1).sum() == scored


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


def test_a_trained_head_multiplies_only_rows_that_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    targets = torch.randint(11, (2, 6)).masked_fill(torch.arange(12).view(2, 6) % 3 > 0, IGNORE)
    results, rows = [], []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda x, *args: rows.append(x[..., 0].numel()) or linear(x, *args))
    for loss in (head_loss, _plain):
        x, weight = (torch.randn(*size, generator=torch.Generator().manual_seed(1)) for size in ((2, 6, 8), (11, 8)))
        value = loss(x.requires_grad_(), weight.requires_grad_(), None, targets)
        value.backward()
        results.append((value.detach(), x.grad, weight.grad))
    assert rows == [4, 12]
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("case", ["the head is trained", "nothing is trained", "no gradients"])
def test_otherwise_it_is_the_plain_loss_to_the_bit(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_core.inference.head_loss._FrozenHead", None)
    x, weight, targets = torch.randn(2, 5, 8), torch.randn(11, 8), torch.randint(11, (2, 5))
    x.requires_grad_(case != "nothing is trained")
    weight.requires_grad_(case == "the head is trained")
    with torch.set_grad_enabled(case != "no gradients"):
        assert torch.equal(head_loss(x, weight, None, targets), _plain(x, weight, None, targets))
