"""Attention on whole matrices is torch's own."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from pealm_cpu import onednn
from pealm_cpu.onednn import _attention


@pytest.mark.parametrize("kernel", [onednn.SOFTMAX, "_not_there"])
@pytest.mark.parametrize("kind", ["causal", "masked", "open"])
def test_attention_by_whole_matrices_is_torch_s(kind: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "ROWS", 2)
    monkeypatch.setattr(onednn, "SOFTMAX", kernel)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, t, 8, requires_grad=True) for t in (5, 5 if kind == "causal" else 9, 9))
    v = v[:, :, : k.shape[2], :6]
    mask = torch.rand(5, 9) < 0.5 if kind == "masked" else None
    if mask is not None:
        mask[:, 0] = True
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=kind == "causal")
    ours = _attention(q, k, v, mask, causal=kind == "causal")
    torch.testing.assert_close(ours, theirs)
    back = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad(ours, (q, k), back), torch.autograd.grad(theirs, (q, k), back), strict=True
    ):
        torch.testing.assert_close(one, other)
    low = [x.bfloat16() for x in (q, k, v)]
    coarse = _attention(*low, mask, causal=kind == "causal")
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(coarse.float(), theirs, rtol=0.03, atol=0.03)


def test_attention_in_bf16_is_as_exact_as_torch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attend, seen = torch.nn.functional.scaled_dot_product_attention, list[torch.dtype]()

    def whole(q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(q.dtype)
        return _attention(q, *args, **kwargs)

    monkeypatch.setattr(onednn, "_attention", whole)
    q, k, v = (torch.randn(2, 2, 300, 16, requires_grad=True) for _ in range(3))
    back, errors = torch.randn(2, 2, 300, 16), list[list[float]]()
    exact = attend(8 * q, k, v, is_causal=True)  # scores are as large in a trained model
    right = [exact.detach(), *torch.autograd.grad(exact, (q, k, v), back)]
    for mode in (nullcontext(), onednn._OneDNN()):
        with torch.autocast("cpu", torch.bfloat16), mode:
            y = attend(8 * q, k, v.bfloat16(), is_causal=True)  # norms and rotations give fp32, products bf16
        assert y.dtype == torch.bfloat16
        found = [y.detach(), *torch.autograd.grad(y, (q, k, v), back.bfloat16())]
        errors.append([float((a - b).norm() / b.norm()) for a, b in zip(found, right, strict=True)])
    assert seen == [torch.bfloat16]
    assert all(ours < 1.5 * theirs for theirs, ours in zip(*errors, strict=True)), errors
