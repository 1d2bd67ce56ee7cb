"""Sprout: shapes, causality, the cache, and that each technique can be switched off."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from pealm_sprout.config import SproutConfig
from pealm_sprout.model import Sprout

BASE = SproutConfig(vocab_size=11, block_size=16, n_layer=2, n_head=2, n_embd=16)
SWITCHES: list[dict[str, Any]] = [
    {},
    {"rotary": False},
    {"qk_norm": False},
    {"squared_relu": False},
    {"zero_init": False},
    {"untied": False},
    {"softcap": 0.0},
    {"value_residual": True},
    {"embedding_skip": True},
    {"dropout": 0.1},
]


def made(**changes: Any) -> Sprout:
    torch.manual_seed(0)
    model = Sprout(replace(BASE, **changes))
    with torch.no_grad():
        for parameter in model.parameters():  # what starts at zero would hide what the model does
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("changes", SWITCHES)
@torch.no_grad()
def test_logits_look_at_no_later_token_and_the_cache_changes_nothing(changes: dict[str, Any]) -> None:
    model = made(**changes)
    idx = torch.randint(11, (2, 16))
    logits, _ = model(idx)
    assert logits is not None and logits.shape == (2, 16, 11)
    other = idx.clone()
    other[:, 9] = (other[:, 9] + 1) % 11
    changed, _ = model(other)
    assert changed is not None
    torch.testing.assert_close(logits[:, :9], changed[:, :9])
    assert not torch.allclose(logits[:, 9:], changed[:, 9:])
    cache = model.make_cache(2, 16)
    parts = [model(idx[:, a:b], cache=cache)[0] for a, b in ((0, 5), (5, 6), (6, 16))]
    torch.testing.assert_close(torch.cat(parts, dim=1), logits, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]
    picked, _ = model(idx, at=[-1])
    torch.testing.assert_close(picked, logits[:, -1:])


@pytest.mark.parametrize("changes", SWITCHES)
def test_every_parameter_learns(changes: dict[str, Any]) -> None:
    model = made(**changes).train()
    idx = torch.randint(11, (2, 16))
    _, loss = model(idx, idx.roll(-1, 1))
    assert loss is not None
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name
    taken = {id(p) for p in model.muon_parameters()}
    assert {name for name, p in model.named_parameters() if id(p) in taken} == {
        f"blocks.{i}.{part}"
        for i in range(2)
        for part in ("attention.qkv", "attention.proj.weight", "up.weight", "down.weight")
    }


def test_the_first_loss_is_that_of_knowing_nothing() -> None:
    idx = torch.randint(11, (2, 16))
    _, loss = Sprout(BASE)(idx, idx)
    assert loss is not None and loss.item() == pytest.approx(math.log(11), abs=1e-5)


def test_capped_logits_stay_within_their_cap() -> None:
    model = made(softcap=2.0)
    with torch.no_grad():
        model.head.weight.mul_(100)
        logits, _ = model(torch.randint(11, (1, 16)))
    assert logits is not None and 1.5 < float(logits.abs().max()) <= 2.0


def test_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="n-head 3 does not divide n-embd 16; try n-head"):
        replace(BASE, n_head=3)
    with pytest.raises(ValueError, match="rotary positions need an even number"):
        replace(BASE, n_embd=6)
