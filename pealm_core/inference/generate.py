"""Generate tokens: from logits to the next token, one at a time, with or without a key-value cache."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pealm_core.config.settings import Sampling
from pealm_core.contract.errors import PluginError
from pealm_core.contract.protocols import Tokenizer, has
from pealm_core.inference.batch import Batch


def probabilities(logits: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """Return the distribution to draw the next token from, if temperature > 0: logits (B, V) to probabilities (B, V).

    seen: (B, V), true for tokens that occur in the text so far. Applied in this order: repetition penalty (CTRL,
    Keskar et al. 2019: divides the logit of a seen token if positive, multiplies it if negative), temperature, top-k
    (exactly k tokens, whatever the ties), top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024).
    """
    logits = _penalized(logits.float(), sampling, seen)
    logits, order = logits / sampling.temperature, None
    shape = logits.shape
    if sampling.top_k is not None and sampling.top_k < shape[-1]:
        logits, order = logits.topk(sampling.top_k, dim=-1)  # (B, k), most likely first
    elif sampling.top_p is not None and sampling.top_p < 1:
        logits, order = logits.sort(dim=-1, descending=True)
    p = logits.softmax(-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        p = p.masked_fill(p.cumsum(-1) - p >= sampling.top_p, 0)  # the tokens before it already reach top_p
    if sampling.min_p is not None:
        p = p.masked_fill(p < sampling.min_p * p.amax(-1, keepdim=True), 0)
    p = p / p.sum(-1, keepdim=True)
    return p if order is None else p.new_zeros(shape).scatter(-1, order, p)


def next_token(logits: Tensor, sampling: Sampling, noise: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
    """Draw a token for every row: logits (B, V) to ids (B,). seen: as in `probabilities`.

    noise: (B, V), drawn from the exponential distribution, for temperature > 0; with it, as in torch.multinomial, the
    token of the largest quotient of probability and noise is a draw.
    """
    if noise is None:
        return _penalized(logits, sampling, seen).argmax(-1)
    return (probabilities(logits, sampling, seen) / noise).argmax(-1)


def _penalized(logits: Tensor, sampling: Sampling, seen: Tensor | None) -> Tensor:
    if seen is None or sampling.repetition_penalty == 1:
        return logits
    penalty = sampling.repetition_penalty
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def generate_ids(
    model: Any, prompt: Sequence[int], sampling: Sampling, *, use_cache: bool = True, graphs: bool = True
) -> Iterator[Tensor]:
    """Yield the next token ids, (num_samples,) at a time, max_new_tokens times. prompt: at least one id.

    graphs: on CUDA, replay the kernels of a token's pass as a CUDA graph where the model can.
    """
    for ids, _ in generate_steps(model, [prompt], sampling, use_cache=use_cache, graphs=graphs):
        yield ids


@torch.inference_mode()
def generate_steps(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    use_cache: bool = True,
    graphs: bool = True,
    active: Collection[int] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (ids (B,), logits (B, V)) max_new_tokens times: the tokens drawn, and the model's logits for them.

    prompts: at least one id each, of any lengths; B = len(prompts) * num_samples, a prompt's samples adjacent. With a
    seed, a prompt's texts are those that it gets alone. active: the rows still wanted; if the caller takes rows out
    between two steps, B is the number of the others, in order. When the window of block_size tokens is full, it
    restarts from its last half, so that the cost per token does not depend on the length of the text. A longer prompt
    is cut to its last block_size tokens.
    """
    samples, size = sampling.num_samples, model.config.vocab_size
    batch = Batch(model, prompts, samples, use_cache=use_cache, graphs=graphs, guess=sampling.speculate)
    active = batch.rows if active is None else active
    device = next(model.parameters()).device
    generator = torch.Generator(device)
    if sampling.seed is not None:
        generator.manual_seed(sampling.seed)
    else:
        generator.seed()
        samples = len(batch.rows)  # with noise of their own
    seen = None
    if sampling.repetition_penalty != 1:
        seen = torch.zeros(len(batch.rows), size, dtype=torch.bool, device=device)
        for row in batch.rows:
            seen[row, torch.tensor([*prompts[row // sampling.num_samples]], device=device)] = True
    for remaining in range(sampling.max_new_tokens, 0, -1):
        logits, rows = batch.logits(remaining), torch.tensor(batch.rows, device=device)
        noise = None
        if sampling.temperature > 0:
            noise = torch.empty(samples, size, device=device).exponential_(generator=generator)
            noise = noise if len(rows) == samples else noise[rows % samples]
        token = next_token(logits, sampling, noise, None if seen is None else seen[rows])
        if seen is not None:
            seen[rows, token] = True
        yield token, logits
        batch.add(token.tolist(), active)
        if not batch.rows:
            return


def start_token(tokenizer: Tokenizer) -> int:
    """Return what an empty prompt starts from, not shown: `bos_id`, else end-of-text, else a newline, else 0."""
    for name in ("bos_id", "eot_id"):
        if (token := getattr(tokenizer, name, None)) is not None:
            return int(token)
    try:
        return int(tokenizer.encode("\n")[0])
    except (ValueError, IndexError):
        return 0


def stream_decoder(tokenizer: Tokenizer) -> Callable[[int], str]:
    """Return a function from the next id to the text it completes: the tokenizer's own, or one made of `decode`.

    The latter keeps ids back while they end within a character (U+FFFD).
    """
    if has(tokenizer, "stream_decoder"):
        decoder: Callable[[int], str] = tokenizer.stream_decoder()  # type: ignore[attr-defined]
        return decoder
    pending: list[int] = []

    def step(token: int) -> str:
        pending.append(token)
        text = tokenizer.decode(pending)
        if not isinstance(text, str):
            raise PluginError(f"{type(tokenizer).__name__}.decode must give text, not {text!r:.60}")
        if text.endswith("\ufffd") and len(pending) < 8:
            return ""
        pending.clear()
        return text

    return step


class Stopper:
    """Cut a text that comes in pieces at the first stop string; text that may begin one is kept back.

    >>> stopper = Stopper(["END"])
    >>> [stopper.feed(piece) for piece in ("an E", "EN", "D of")], stopper.done
    (['an ', 'E', ''], True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.done, self._pending = tuple(stops), False, ""

    def feed(self, piece: str) -> str:
        """Add a piece; return the text that can be shown now, "" after the end."""
        if self.done or not self.stops:
            return "" if self.done else piece
        text = self._pending + piece
        positions = [at for at in map(text.find, self.stops) if at >= 0]
        if positions:
            self.done, self._pending = True, ""
            return text[: min(positions)]
        longest = max(map(len, self.stops)) - 1
        cut = next(
            at
            for at in range(max(0, len(text) - longest), len(text) + 1)
            if at == len(text) or any(stop.startswith(text[at:]) for stop in self.stops)
        )
        self._pending = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """Return the text kept back, when no more pieces come."""
        pending, self._pending = self._pending, ""
        return pending
