"""The same numbers as transformers: logits, loss and gradients, with and without a cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pealm_llama.layout import read_config
from pealm_llama.model import Llama
from pealm_llama.names import fuse

HERE = Path("peer")
KINDS = [
    "llama", "all heads have keys", "one head has keys", "wide heads", "llama 3", "smollm2", "mistral", "qwen2", "qwen3"
]  # fmt: skip


def pair(peer: Callable[..., Any], kind: str) -> tuple[Any, Any]:
    """transformers' model, and ours with its weights."""
    theirs = peer(kind)
    config = read_config(theirs.config.to_dict(), where=HERE)
    ours = Llama(config)
    ours.load_state_dict(ours.adapt_weights(theirs.state_dict()))
    return theirs, ours


@pytest.mark.parametrize("kind", KINDS)
def test_logits_loss_and_gradients_are_those_of_transformers(peer: Callable[..., Any], kind: str) -> None:
    theirs, ours = pair(peer, kind)
    idx = torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(1))
    out = theirs(idx, labels=idx)  # shifts the labels itself
    assert float(out.logits.detach().std()) > 0.1
    with torch.no_grad():
        logits, _ = ours(idx)
    torch.testing.assert_close(logits, out.logits.detach(), atol=1e-4, rtol=1e-4)
    _, loss = ours(idx[:, :-1], idx[:, 1:])
    torch.testing.assert_close(loss, out.loss, atol=1e-4, rtol=1e-4)

    out.loss.backward()
    loss.backward()
    gradients = ((name, p.grad) for name, p in theirs.named_parameters())
    expected = fuse(gradients, tied=ours.config.tied)
    assert expected.keys() == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        error = float((parameter.grad - expected[name]).norm() / expected[name].norm().clamp_min(1e-4))
        assert error < 1e-4, f"{name}: {error:.1e}"


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[40], [1] * 40, [30, 1, 1, 8]])
@pytest.mark.parametrize("kind", ["llama", "llama 3", "one head has keys", "qwen3"])
def test_the_cache_gives_the_logits_of_transformers(peer: Callable[..., Any], kind: str, cuts: list[int]) -> None:
    theirs, ours = pair(peer, kind)
    idx: Any = torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(1))
    cache, parts = ours.eval().make_cache(2, 40), list[Tensor]()
    assert cache._layers[0][0].shape[1] == ours.config.kv_heads  # shared keys are there once
    for part in idx.split(cuts, dim=1):
        parts.append(ours(part, cache=cache)[0])
    torch.testing.assert_close(torch.cat(parts, dim=1), theirs(idx).logits, atol=1e-4, rtol=1e-4)
