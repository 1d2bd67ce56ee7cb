"""Sampling: from logits to the next token, one token at a time, with or without a cache."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pealm_core.config.settings import Sampling
from pealm_core.contract.protocols import Tokenizer, has


def probabilities(logits: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """The distribution that the next token is drawn from: logits (B, V) to probabilities (B, V).

    seen: (B, V), true for the tokens that the text has so far. In this order: the repetition penalty (CTRL, Keskar
    et al. 2019: a seen token's logit is divided by it where positive, multiplied where negative), the temperature,
    top-k (ties are broken), top-p (Holtzman et al. 2020) of what is left, min-p (Nguyen et al. 2024).
    """
    logits = _penalized(logits.float(), sampling, seen)
    if sampling.temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    logits, order = logits / sampling.temperature, None
    shape = logits.shape
    if sampling.top_k is not None and sampling.top_k < shape[-1]:
        logits, order = logits.topk(sampling.top_k, dim=-1)  # (B, k), the likeliest first
    elif sampling.top_p is not None and sampling.top_p < 1:
        logits, order = logits.sort(dim=-1, descending=True)
    p = logits.softmax(-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        p = p.masked_fill(p.cumsum(-1) - p >= sampling.top_p, 0)  # the share was reached before this token
    if sampling.min_p is not None:
        p = p.masked_fill(p < sampling.min_p * p.amax(-1, keepdim=True), 0)
    p = p / p.sum(-1, keepdim=True)
    return p if order is None else p.new_zeros(shape).scatter(-1, order, p)


def next_token(
    logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None, seen: Tensor | None = None
) -> Tensor:
    """Draw a token for every row: logits (B, V) to ids (B,). seen: as `probabilities` has it."""
    if sampling.temperature == 0:
        return _penalized(logits, sampling, seen).argmax(-1)
    return torch.multinomial(probabilities(logits, sampling, seen), 1, generator=generator).squeeze(-1)


def _penalized(logits: Tensor, sampling: Sampling, seen: Tensor | None) -> Tensor:
    if seen is None or sampling.repetition_penalty == 1:
        return logits
    penalty = sampling.repetition_penalty
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def generate_ids(
    model: Any, prompt: Sequence[int], sampling: Sampling, *, use_cache: bool = True
) -> Iterator[Tensor]:
    """Yield the next token ids, (num_samples,) at a time, max_new_tokens times. prompt: at least one id."""
    for ids, _ in generate_steps(model, [prompt], sampling, use_cache=use_cache):
        yield ids


@torch.inference_mode()
def generate_steps(
    model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, *, use_cache: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (ids (B,), logits (B, V)) max_new_tokens times: the tokens drawn, and the model's own logits for them.

    prompts: P of one length, at least one id each; B = P num_samples, a prompt's samples side by side.
    When the window of block_size tokens is full, it starts again from its last block_size / 2 tokens, so that the
    cost per token stays flat however long the text gets. A longer prompt is cut to its last block_size tokens.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device)
    if sampling.seed is not None:
        generator.manual_seed(sampling.seed)
    else:
        generator.seed()
    block, samples = model.config.block_size, sampling.num_samples
    use_cache = use_cache and has(model, "make_cache")
    given = torch.tensor([list(prompt) for prompt in prompts], device=device)  # (P, T)
    seen = None
    if sampling.repetition_penalty != 1:
        seen = torch.zeros(len(given), model.config.vocab_size, dtype=torch.bool, device=device)
        seen = seen.scatter(1, given, True).repeat_interleave(samples, dim=0)
    # The prompts are run once; rows part only where tokens are drawn.
    window, held = given[:, -block:], min(given.shape[1], block)
    cache: Any = None
    for left in range(sampling.max_new_tokens, 0, -1):
        if cache is None:
            cache = model.make_cache(len(window), min(block, held + left)) if use_cache else None
            logits, _ = model(window[:, :held], cache=cache, at=[-1])
            if window.shape != (len(given) * samples, block):
                rows = torch.empty(len(given) * samples, block, dtype=torch.long, device=device)
                rows[:, :held] = window.repeat_interleave(samples, dim=0)
                window, logits = rows, logits.repeat_interleave(samples, dim=0)
                cache = cache.repeat(samples) if cache is not None and samples > 1 else cache
        else:
            logits, _ = model(window[:, held - 1 : held], cache=cache)
        logits = logits[:, -1]
        token = next_token(logits, sampling, generator, seen)
        yield token, logits
        if seen is not None:
            seen.scatter_(1, token[:, None], True)
        if held == block:
            held, cache = max(0, block // 2 - 1), None
            window[:, :held] = window[:, block - held :].clone()
        window[:, held] = token
        held += 1


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


class Stopper:
    """Text piece by piece, up to the first stop string; what may turn out to be the start of one is held back.

    >>> stopper = Stopper(["END"])
    >>> [stopper.feed(piece) for piece in ("an E", "EN", "D of")], stopper.done
    (['an ', 'E', ''], True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.done, self._held = tuple(stops), False, ""

    def feed(self, piece: str) -> str:
        """What can be shown after one more piece; "" when the text has ended."""
        if self.done or not self.stops:
            return "" if self.done else piece
        text = self._held + piece
        found = [at for at in map(text.find, self.stops) if at >= 0]
        if found:
            self.done, self._held = True, ""
            return text[: min(found)]
        longest = max(map(len, self.stops)) - 1
        cut = next(
            at
            for at in range(max(0, len(text) - longest), len(text) + 1)
            if at == len(text) or any(stop.startswith(text[at:]) for stop in self.stops)
        )
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held
