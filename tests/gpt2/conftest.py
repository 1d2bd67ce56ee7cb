"""transformers' GPT-2 with random weights: what ours is compared with."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def peer() -> Callable[..., Any]:
    """Makes a GPT2LMHeadModel: `peer(n_layer=2, ...)`. Biases and norms are random too, so that a mix-up shows."""
    from transformers import GPT2Config, GPT2LMHeadModel

    def make(**sizes: int) -> Any:
        values: dict[str, Any] = {**sizes, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        values |= {"bos_token_id": sizes["vocab_size"] - 1, "eos_token_id": sizes["vocab_size"] - 1}
        torch.manual_seed(0)
        model: Any = GPT2LMHeadModel(GPT2Config(**values)).train(False)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter += 0.05 * torch.randn_like(parameter)
        return model

    return make


@pytest.fixture
def bpe(monkeypatch: pytest.MonkeyPatch, tiktoken_files: Path) -> Iterator[Any]:
    """tiktoken's gpt2, from files."""
    import tiktoken

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_files))
    yield tiktoken.get_encoding("gpt2")
