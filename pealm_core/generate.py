"""Sampling: from logits to the next token, one token at a time, with or without a cache."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pealm_core.protocols import Tokenizer, has
from pealm_core.settings import Sampling


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that the next token is drawn from: logits (B, V) to probabilities (B, V)."""
    logits = logits.float()
    if sampling.temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        floor = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        drop = before >= sampling.top_p  # the share was reached before this token
        logits = logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return logits.softmax(-1)


def next_token(logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """Draw a token for every row: logits (B, V) to ids (B,)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(probabilities(logits, sampling), 1, generator=generator).squeeze(-1)


@torch.inference_mode()
def generate_ids(
    model: Any, prompt: Sequence[int], sampling: Sampling, *, use_cache: bool = True
) -> Iterator[Tensor]:
    """Yield the next token ids, (num_samples,) at a time, max_new_tokens times. prompt: at least one id.

    When the window of block_size tokens is full, it starts again from its last block_size / 2 tokens, so that the
    cost per token stays flat however long the text gets. A longer prompt is cut to its last block_size tokens.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device)
    if sampling.seed is not None:
        generator.manual_seed(sampling.seed)
    else:
        generator.seed()
    block, rows = model.config.block_size, sampling.num_samples
    use_cache = use_cache and has(model, "make_cache")
    # The prompt is run once as one row; rows part only where tokens are drawn.
    window = torch.tensor([list(prompt)[-block:]], device=device)
    cache: Any = None
    for _ in range(sampling.max_new_tokens):
        if cache is None:
            cache = model.make_cache(len(window), block) if use_cache else None
            logits, _ = model(window, cache=cache, at=[-1])
            if len(window) < rows:
                window, logits = window.expand(rows, -1), logits.expand(rows, -1, -1)
                cache = cache.repeat(rows) if cache is not None else None
        else:
            logits, _ = model(window[:, -1:], cache=cache, at=[-1])
        token = next_token(logits[:, -1], sampling, generator)
        yield token
        if window.shape[1] == block:
            window, cache = window[:, block - max(0, block // 2 - 1) :], None
        window = torch.cat([window, token[:, None]], dim=1)


def start_token(tokenizer: Tokenizer) -> int:
    """What an empty prompt starts from, not shown: end-of-text, else a newline, else token 0."""
    eot = getattr(tokenizer, "eot_id", None)
    if eot is not None:
        return int(eot)
    try:
        return int(tokenizer.encode("\n")[0])
    except (ValueError, IndexError):
        return 0


def stream_decoder(tokenizer: Tokenizer) -> Callable[[int], str]:
    """A function from the next id to the text that it completes: the tokenizer's own, or one made from `decode`.

    The made one holds ids back while they end in the middle of a character (U+FFFD).
    """
    if has(tokenizer, "stream_decoder"):
        decoder: Callable[[int], str] = tokenizer.stream_decoder()  # type: ignore[attr-defined]
        return decoder
    held: list[int] = []

    def step(token: int) -> str:
        held.append(token)
        text = tokenizer.decode(held)
        if text.endswith("\ufffd") and len(held) < 8:
            return ""
        held.clear()
        return text

    return step
