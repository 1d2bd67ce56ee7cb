"""The same numbers as transformers' GPT2LMHeadModel: logits, loss and gradients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pealm_gpt2.layout import read_config, read_state
from pealm_gpt2.model import GPT2
from pealm_gpt2.plugin import SIZES

HERE = Path("peer")


@pytest.mark.parametrize("size", ["small", "medium", "large", "xl"])
def test_logits_loss_and_gradients_are_those_of_transformers(peer: Callable[..., Any], size: str) -> None:
    # The smallest is whole; of the others one layer and a part of the vocabulary, which all four share.
    sizes = {**SIZES[size], "n_layer": 1, "vocab_size": 500} if size in SIZES else {"vocab_size": 50257}
    theirs = peer(**sizes)
    config = read_config(theirs.config.to_dict(), where=HERE)
    assert config.block_size == 1024 and config.n_layer == (12 if size == "small" else 1)
    ours = GPT2(config)
    ours.load_state_dict(read_state(theirs.state_dict().items(), config, where=HERE))
    idx = torch.randint(config.vocab_size, (2, 33))

    out = theirs(idx, labels=idx)  # shifts the labels itself
    with torch.no_grad():
        logits, _ = ours(idx)
    torch.testing.assert_close(logits, out.logits.detach(), atol=1e-4, rtol=1e-4)
    _, loss = ours(idx[:, :-1], idx[:, 1:])
    torch.testing.assert_close(loss, out.loss, atol=1e-4, rtol=1e-4)

    out.loss.backward()
    loss.backward()
    expected = read_state(((name, p.grad) for name, p in theirs.named_parameters()), config, where=HERE)
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        error = float((parameter.grad - expected[name]).norm() / expected[name].norm())
        assert error < 1e-4, f"{name}: {error:.1e}"
