"""Causal attention: the last tokens of a sequence, and keys that several queries share."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pealm_core.inference.kv_cache import causal_attention


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax of the scaled products, position by position; each key repeated for the queries that share it."""
    n = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(n, dim=1), v.repeat_interleave(n, dim=1)
    t, s = q.shape[2], k.shape[2]
    out = torch.empty_like(q)
    for i in range(t):
        seen = s - t + i + 1
        p = (q[:, :, i : i + 1] @ k[:, :, :seen].mT / math.sqrt(q.shape[-1])).softmax(-1)
        out[:, :, i : i + 1] = p @ v[:, :, :seen]
    return out


@pytest.mark.parametrize("n_kv_head", [6, 3, 2, 1])
@pytest.mark.parametrize(("t", "s"), [(5, 5), (1, 5), (3, 5), (1, 1)])
def test_keys_may_be_shared_by_adjacent_queries(n_kv_head: int, t: int, s: int) -> None:
    generator = torch.Generator().manual_seed(0)
    draw: Any = lambda heads, n: torch.randn(2, n, heads, 4, generator=generator).transpose(1, 2)  # noqa: E731
    q, k, v = draw(6, t), draw(n_kv_head, s), draw(n_kv_head, s)
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    y, expected = causal_attention(*inputs), by_hand(*inputs)
    torch.testing.assert_close(y, expected)
    weight = torch.randn(y.shape, generator=generator)
    for one, two in zip(*(torch.autograd.grad((out * weight).sum(), inputs) for out in (y, expected)), strict=True):
        torch.testing.assert_close(one, two)
