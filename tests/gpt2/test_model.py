"""GPT-2 by itself: its sizes, its first weights, its cache, and an embedding whose padding does nothing."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pealm_core.checkpoints.build_model import check_model
from pealm_gpt2.config import GPT2Config
from pealm_gpt2.model import GPT2
from pealm_gpt2.plugin import SIZES

CONFIG = GPT2Config(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=16)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    model = GPT2(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():  # away from the tiny initial weights, so that differences show
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
        model.wte.weight[11:] = 0
    return model.eval()


@pytest.mark.parametrize(
    ("size", "count"),
    [("small", 124_439_808), ("medium", 354_823_168), ("large", 774_030_080), ("xl", 1_557_611_200)],
)
def test_the_four_sizes_have_their_published_numbers_of_parameters(size: str, count: int) -> None:
    with torch.device("meta"):
        model = GPT2(GPT2Config(vocab_size=50257, **SIZES.get(size, {})))
    padding = (50304 - 50257) * model.config.n_embd
    assert sum(p.numel() for p in model.parameters()) == count + padding


def test_first_weights() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=1000, block_size=256, n_layer=3, n_head=4, n_embd=128)
    model = GPT2(config)
    for name, parameter in model.named_parameters():
        values = parameter[:1000] if name == "wte.weight" else parameter
        if parameter.dim() == 1:
            assert torch.equal(values, torch.full_like(values, float("ln" in name and "weight" in name))), name
        else:
            std = 0.02 / math.sqrt(6) if "c_proj" in name else 0.02
            assert float(values.detach().std()) == pytest.approx(std, rel=0.03), name
            assert abs(float(values.detach().mean())) < 0.001, name
    idx = torch.randint(1000, (2, 256))
    _, loss = model(idx, torch.randint(1000, (2, 256)))
    assert float(loss.detach()) == pytest.approx(math.log(1000), abs=0.1)


def test_it_keeps_the_contract(model: Any) -> None:
    check_model(model, 11)
    logits, none = model(torch.randint(11, (3, 8)))
    assert logits is not None and logits.shape == (3, 8, 11) and none is None


def test_a_later_token_changes_nothing_before_it(model: Any) -> None:
    idx = torch.randint(11, (1, 8))
    other = idx.clone()
    other[0, 5] = (other[0, 5] + 1) % 11
    one, two = model(idx)[0], model(other)[0]
    torch.testing.assert_close(one[:, :5], two[:, :5])
    assert not torch.allclose(one[:, 5:], two[:, 5:])


@pytest.mark.parametrize("cuts", [[8], [1] * 8, [3, 5], [4, 1, 3]])
def test_the_cache_gives_the_same_logits(model: Any, cuts: list[int]) -> None:
    idx: Any = torch.randint(11, (2, 8))
    whole, cache = model(idx)[0], model.make_cache(2, 8)
    parts = [model(part, cache=cache)[0] for part in idx.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_at_picks_positions(model: Any) -> None:
    idx = torch.randint(11, (2, 8))
    whole, computed = model(idx)[0], list[int]()
    model.h[-1].mlp.register_forward_hook(lambda module, args, y: computed.append(y.shape[1]))
    for at in ([-1], slice(2, 5), torch.tensor([0, 7]), slice(0, 0)):
        torch.testing.assert_close(model(idx, at=at)[0], whole[:, at])
    assert computed == [1, 3, 2, 0]  # the last block computes no more than is asked for


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_padding_is_inert(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model: Any = GPT2(CONFIG)
    assert model.wte.weight.shape == (128, 16) and model.state_dict()["wte.weight"].shape == (128, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    idx, targets = torch.randint(11, (4, 8)), torch.randint(11, (4, 8))
    for _ in range(3):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            _, loss = model(idx, targets)
        loss.backward()
        assert float(model.wte.weight.grad[:11].abs().max()) > 0
        assert float(model.wte.weight.grad[11:].abs().max()) == 0
        optimizer.step()
        optimizer.zero_grad()
    assert float(model.wte.weight[11:].detach().abs().max()) == 0


def test_the_loss_is_over_the_vocabulary_alone(model: Any) -> None:
    idx, targets = torch.randint(11, (4, 8)), torch.randint(11, (4, 8))
    none, loss = model(idx, targets)
    assert none is None
    torch.testing.assert_close(loss, F.cross_entropy(model(idx)[0].flatten(0, 1), targets.flatten()))
    with torch.no_grad():
        model.wte.weight[11:] = 9.0  # whatever stands there
    torch.testing.assert_close(model(idx, targets)[1], loss)


def test_without_bias_there_is_none() -> None:
    model = GPT2(GPT2Config(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=16, bias=False))
    assert not [name for name, _ in model.named_parameters() if "bias" in name]
    check_model(model, 11)


def test_dropout_only_drops_in_training() -> None:
    model = GPT2(GPT2Config(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=16, dropout=0.5))
    idx = torch.randint(11, (1, 8))
    assert not torch.equal(model.train()(idx)[0], model(idx)[0])
    assert torch.equal(model.eval()(idx)[0], model(idx)[0])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="n-head 5 does not divide n-embd 16; try n-head 4"):
        GPT2Config(n_embd=16, n_head=5)


def test_the_recipe_and_a_preset(pealm: Any, book: Path) -> None:
    done = pealm("train", "gpt2", "--preset", "xl", "--print-config")
    lines = [line.split("  #")[0].strip() for line in done.out.splitlines()]
    assert done.code == 0, done.err
    assert {"batch-size = 512", "block-size = 1024", "steps = 19073", "lr = 0.0006", "warmup-steps = 715"} <= {*lines}
    assert {"n-layer = 48", "n-head = 25", "n-embd = 1600", 'name = "tiktoken"'} <= {*lines}
    assert 'npy-shards = "data/fineweb_edu10B"' in lines
    done = pealm("train", "gpt2-pretrained", "--preset", "medium", "--input.text", book, "--print-config")
    assert done.code == 0 and 'size = "medium"' in done.out, done.err
