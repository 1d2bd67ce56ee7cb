"""The plain transformer: causal, cached, and the same with and without."""

import math

import pytest
import torch

from pealm_char_transformer.config import TransformerConfig
from pealm_char_transformer.model import Transformer
from pealm_core.config.settings import Sampling
from pealm_core.inference.generate import generate_ids

CONFIG = TransformerConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=16)


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    for parameter in model.parameters():  # away from the tiny initial weights, so that differences show
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_shapes_and_initial_loss() -> None:
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    idx = torch.randint(11, (3, 8))
    logits, none = model(idx)
    assert logits.shape == (3, 8, 11) and none is None
    _, loss = model(idx, torch.randint(11, (3, 8)))
    assert float(loss.detach()) == pytest.approx(math.log(11), abs=0.1)


def test_a_later_token_changes_nothing_before_it(model: Transformer) -> None:
    idx = torch.randint(11, (1, 8))
    other = idx.clone()
    other[0, 5] = (other[0, 5] + 1) % 11
    one, two = model(idx)[0], model(other)[0]
    torch.testing.assert_close(one[:, :5], two[:, :5])
    assert not torch.allclose(one[:, 5:], two[:, 5:])


def test_positions_matter(model: Transformer) -> None:
    one, two = (model(torch.tensor([ids]))[0][0, -1] for ids in ([1, 2, 3], [2, 1, 3]))
    assert not torch.allclose(one, two)


@pytest.mark.parametrize("cuts", [[8], [1] * 8, [3, 5], [4, 1, 3]])
def test_the_cache_gives_the_same_logits(model: Transformer, cuts: list[int]) -> None:
    idx = torch.randint(11, (2, 8))
    whole, cache = model(idx)[0], model.make_cache(2, 8)
    parts = [model(part, cache=cache)[0] for part in idx.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_at_picks_positions(model: Transformer) -> None:
    idx = torch.randint(11, (2, 8))
    whole = model(idx)[0]
    for at in ([-1], slice(2, 5), torch.tensor([0, 7])):
        torch.testing.assert_close(model(idx, at=at)[0], whole[:, at])


@pytest.mark.parametrize("length", [1, 7, 8, 20])
@pytest.mark.parametrize("rows", [1, 3])
def test_greedy_text_is_the_same_with_and_without_the_cache(model: Transformer, length: int, rows: int) -> None:
    prompt = torch.randint(11, (length,)).tolist()
    sampling = Sampling(max_new_tokens=25, temperature=0, num_samples=rows)
    cached = [t.tolist() for t in generate_ids(model, prompt, sampling)]
    plain = [t.tolist() for t in generate_ids(model, prompt, sampling, use_cache=False)]
    assert cached == plain and len(cached) == 25


def test_dropout_only_drops_in_training() -> None:
    model = Transformer(TransformerConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=16, dropout=0.5))
    idx = torch.randint(11, (1, 8))
    assert not torch.equal(model.train()(idx)[0], model(idx)[0])
    assert torch.equal(model.eval()(idx)[0], model(idx)[0])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="n-head 5 does not divide n-embd 16; try n-head 4"):
        TransformerConfig(n_embd=16, n_head=5)
