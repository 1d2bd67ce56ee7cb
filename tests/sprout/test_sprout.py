"""Sprout: shapes, causality, the cache, and that each technique can be switched off."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pealm_core import IGNORE
from pealm_sprout.config import SproutConfig
from pealm_sprout.model import NGrams, Sprout
from pealm_sprout.ops import dropout, norm, rotate, squared_relu

BASE = SproutConfig(vocab_size=11, block_size=16, n_layer=2, n_head=2, n_embd=16, ngram=3, ngram_rows=50)
SWITCHES: list[dict[str, Any]] = [
    {},
    {"rotary": False},
    {"rotary_fraction": 0.5},
    {"qk_norm": False},
    {"squared_relu": False},
    {"zero_init": False},
    {"untied": False},
    {"softcap": 15.0},
    {"ngram": 1},
    {"ngram": 5},
    {"value_residual": True},
    {"embedding_skip": True},
    {"smear": 6},
    {"dropout": 0.1},
    {"ngram_dropout": 0.3},
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
    torch.testing.assert_close(torch.cat(parts, dim=1), logits, rtol=1e-4, atol=1e-5)
    picked, _ = model(idx, at=[-1])
    torch.testing.assert_close(picked, logits[:, -1:])


@pytest.mark.parametrize("changes", SWITCHES)
def test_bf16_gives_nearly_the_same_loss_and_gradients(changes: dict[str, Any]) -> None:
    model = made(**changes)
    idx, targets = torch.randint(11, (2, 2, 16))
    found = []
    for low in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = model(idx, targets)[1]
        assert loss is not None
        found.append((loss.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())])))
    (loss, gradient), (low_loss, low_gradient) = found
    torch.testing.assert_close(low_loss, loss, rtol=0.01, atol=0.01)
    assert float((low_gradient - gradient).norm() / gradient.norm()) < 0.03
    cache = model.bfloat16().make_cache(2, 16)  # weights in bf16, without autocast
    logits = [model(idx[:, a:b], cache=cache)[0] for a, b in ((0, 5), (5, 16))]
    assert all(part is not None and part.dtype == torch.bfloat16 for part in logits)


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


def test_an_ngram_is_known_again_wherever_it_stands() -> None:
    torch.manual_seed(0)
    ngrams = NGrams(replace(BASE, ngram_rows=5000))
    before = torch.full((1, 2), -1)
    (pairs, triples), recent = ngrams(torch.tensor([[7, 3, 4, 9, 3, 4]]), before)
    assert recent[:, -2:].tolist() == [[3, 4]]
    assert torch.equal(pairs[0, 2], pairs[0, 5]) and not torch.equal(triples[0, 2], triples[0, 5])
    (on_pairs, on_triples), recent = ngrams(torch.tensor([[9]]), recent)
    assert torch.equal(on_pairs[0, 0], pairs[0, 3]) and torch.equal(on_triples[0, 0], triples[0, 3])
    assert recent[:, -2:].tolist() == [[4, 9]]
    (first, _), _ = ngrams(torch.tensor([[4]]), before)  # nothing before it is not token 0 before it
    (after_0, _), _ = ngrams(torch.tensor([[4]]), torch.tensor([[0, 0]]))
    assert not torch.equal(first, after_0)


def test_ngrams_that_were_never_seen_add_nothing() -> None:
    model = Sprout(BASE)
    with torch.no_grad():
        model.head.weight.normal_()  # which starts at zero, so that nothing before it would learn yet
    optimizer, seen = torch.optim.SGD(model.parameters(), lr=1.0), torch.tensor([[7, 3, 4, 9]])
    model(seen, seen.roll(-1, 1))[1].backward()  # type: ignore[union-attr]
    optimizer.step()
    for table in model.ngrams.tables:
        assert table.weight.any(-1).sum() == 4  # type: ignore[operator,union-attr]


@torch.no_grad()
def test_embeddings_of_ngrams_are_dropped_as_a_whole_in_training_alone() -> None:
    torch.manual_seed(0)
    ngrams, idx = NGrams(replace(BASE, ngram_dropout=0.25)), torch.randint(11, (8, 500))
    before = torch.full((8, 2), -1)
    for whole, dropped in zip(ngrams.eval()(idx, before)[0], ngrams.train()(idx, before)[0], strict=True):
        kept = dropped.any(-1)
        assert abs(float(kept.float().mean()) - 0.75) < 0.04
        torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)


@torch.no_grad()
def test_a_position_adds_up_the_embeddings_of_the_tokens_just_before_it() -> None:
    model = made(smear=4)
    idx, nothing = torch.tensor([[7, 3, 4, 9, 3]]), torch.full((1, 3), -1)
    found = model._embedded(idx, torch.cat([nothing, idx], dim=1))[0]
    table, weights = model.tokens.weight, model.smear[:, 0]  # the last weight is that of the token just before
    assert weights.shape == (16, 3)
    for t in range(5):
        before = [table[idx[0, t - back]] * weights[:, -back] for back in (1, 2, 3) if back <= t]
        torch.testing.assert_close(found[t], sum(before, start=table[idx[0, t]]))
    assert not hasattr(made(), "smear")


@torch.no_grad()
def test_rows_of_the_cache_are_repeated_and_selected() -> None:
    model, idx = made(smear=5), torch.randint(11, (2, 9))
    cache = model.make_cache(2, 16)
    model(idx, cache=cache)
    rows = torch.tensor([1, 0, 1])
    for new, old in ((cache.select(rows), idx[rows]), (cache.repeat(2), idx.repeat_interleave(2, 0))):
        more = torch.randint(11, (len(old), 3))
        whole = model(torch.cat([old, more], dim=1))[0]
        assert whole is not None
        torch.testing.assert_close(model(more, cache=new)[0], whole[:, 9:], rtol=1e-4, atol=1e-5)


def test_derivatives_by_hand_are_those_of_the_formulas() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 8, requires_grad=True)
    cos, sin = torch.randn(2, 5, 1, 4)
    turned = [x[..., :4] * cos - x[..., 4:] * sin, x[..., 4:] * cos + x[..., :4] * sin]
    for found, formula in (
        (norm(x), x / x.square().mean(-1, keepdim=True).sqrt()),
        (norm(x[:, :, 1:]), x[:, :, 1:] / x[:, :, 1:].square().mean(-1, keepdim=True).sqrt()),
        (squared_relu(x), x.relu() ** 2),
        (rotate(x, cos, sin), torch.cat(turned, dim=-1)),
    ):
        torch.testing.assert_close(found, formula)
        back = torch.randn_like(found)
        ours, theirs = (torch.autograd.grad(y, x, back)[0] for y in (found, formula))
        torch.testing.assert_close(ours, theirs)
        assert type(found.grad_fn).__name__.startswith("_")  # by hand, not by the formula
    with torch.autocast("cpu", torch.bfloat16):
        low = rotate(x.bfloat16(), cos, sin)
        assert type(low.grad_fn).__name__ == "_RotateBackward" and low.dtype == torch.float32
    assert rotate(x.bfloat16(), cos, sin).dtype == torch.bfloat16


@pytest.mark.parametrize(("p", "size"), [(0.1, 40_001), (0.5, 40_002), (0.99999, 3)])
def test_dropout_drops_its_fraction_and_keeps_the_mean(p: float, size: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(size).add_(0.5).requires_grad_()
    y = dropout(x, p, training=True)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.01)
    kept = (y != 0).float()
    torch.testing.assert_close(y, x * kept / (1 - p))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], kept / (1 - p))
    assert dropout(x, p, training=False) is x and dropout(x, 0.0, training=True) is x
    torch.manual_seed(0)
    assert torch.equal(dropout(x, p, training=True), dropout(x, p, training=True)) is (size == 3)
    assert dropout(x.bfloat16(), p, training=True).dtype == torch.bfloat16


def test_the_first_loss_is_that_of_knowing_nothing() -> None:
    idx = torch.randint(11, (2, 16))
    _, loss = Sprout(BASE)(idx, idx)
    assert loss is not None and loss.item() == pytest.approx(math.log(11), abs=1e-5)


def test_only_scored_positions_need_logits() -> None:
    model, rows = made(softcap=15.0), list[int]()
    idx, targets = torch.randint(11, (2, 2, 16))
    targets[:, 3:] = IGNORE
    every = F.cross_entropy(model(idx)[0].flatten(0, 1), targets.flatten())  # type: ignore[union-attr]
    model.head.register_forward_hook(lambda head, args, logits: rows.append(logits.numel() // 11))
    loss = model(idx, targets)[1]
    assert loss is not None and rows == [6]
    torch.testing.assert_close(loss, every)
    for ours, theirs in zip(*(torch.autograd.grad(x, model.parameters()) for x in (loss, every)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_token_after_the_next_is_learned_in_training_alone() -> None:
    model, found = made(ahead=0.3), list[torch.Tensor]()
    idx, targets = torch.randint(11, (2, 2, 16))
    targets[:, 12:] = IGNORE
    plain = model(idx, targets)[1]
    torch.testing.assert_close(plain, F.cross_entropy(model(idx)[0].flatten(0, 1), targets.flatten()))  # type: ignore[union-attr]
    model.second.register_forward_hook(lambda head, args, logits: found.append(logits))
    loss = model.train()(idx, targets)[1]
    later = F.cross_entropy(found[0].flatten(0, 1), targets[:, 1:].flatten())
    torch.testing.assert_close(loss, plain + 0.3 * later)  # type: ignore[operator]
    loss.backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in model.parameters())
    targets[:, 1:] = IGNORE  # no token after the next is scored
    assert model(idx, targets)[1] == model.eval()(idx, targets)[1]


def test_capped_logits_stay_within_their_cap() -> None:
    model = made(softcap=2.0)
    with torch.no_grad():
        model.head.weight.mul_(100)
        logits, _ = model(torch.randint(11, (1, 16)))
    assert logits is not None and 1.5 < float(logits.abs().max()) <= 2.0


def test_features_that_rotary_positions_do_not_turn_compare_content_alone() -> None:
    x = torch.randn(1, 16, 2, 1, 8)
    for fraction, still in ((1.0, 0), (0.5, 2), (0.1, 3)):  # of the 4 pairs of features in a head
        turned = rotate(x, *made(rotary_fraction=fraction).turns)
        same = (turned == x)[0, 1:].all(0).flatten(0, 1).all(0)
        assert same.view(2, 4).tolist() == 2 * [[False] * (4 - still) + [True] * still]
        torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="n-head 3 does not divide n-embd 16; try n-head"):
        replace(BASE, n_head=3)
    with pytest.raises(ValueError, match="rotary positions need an even number"):
        replace(BASE, n_embd=6)
