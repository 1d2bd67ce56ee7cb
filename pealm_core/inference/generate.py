"""Generate tokens: from logits to the next token, one at a time, with or without a key-value cache."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from pealm_core.config.settings import Sampling
from pealm_core.contract.errors import PluginError
from pealm_core.contract.protocols import Tokenizer, has
from pealm_core.inference.batch import Batch, Row
from pealm_core.inference.sampling import next_token


def generate_ids(
    model: Any, prompt: Sequence[int], sampling: Sampling, *, use_cache: bool = True, graphs: bool = True
) -> Iterator[Tensor]:
    """Yield the next token ids, (num_samples,) at a time, max_new_tokens times. prompt: at least one id.

    graphs: record a token's pass once and repeat it, on CUDA or in C on a CPU, where the model can.
    """
    for ids, _ in generate_steps(model, [prompt], sampling, use_cache=use_cache, graphs=graphs):
        yield ids


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
    batch = ContinuousBatch(model, use_cache=use_cache, graphs=graphs, guess=sampling.speculate)
    rows = batch.add(prompts, sampling)
    while any(row.remaining > 0 for row in rows):
        yield batch.step()[1:]
        if active is not None:
            batch.end(row for row in rows if row.number not in active)


class ContinuousBatch:
    """Texts of several requests that share forward passes; requests may join and end between two steps.

    A row has a `number`, its place in its request, and `remaining` tokens; 0: it has ended. With a seed, a text is
    the one that its request gets alone. guess: as Sampling.speculate, while there is one row.
    """

    def __init__(self, model: Any, *, use_cache: bool = True, graphs: bool = True, guess: int = 0) -> None:
        self._model, self._batch = model, Batch(model, use_cache=use_cache, graphs=graphs, guess=guess)

    def add(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Row]:
        """Add num_samples rows for each prompt, and return them. The next step reads the prompts."""
        draws = _Draws(self._model, prompts, sampling)
        return self._batch.enter(draws, prompts, sampling.num_samples, sampling.max_new_tokens)

    def end(self, rows: Iterable[Row]) -> None:
        """End rows early."""
        for row in rows:
            row.remaining = 0
        if not any(row.remaining > 0 for row in self._batch.rows):
            self._batch.leave()  # frees the caches

    @torch.inference_mode()
    def step(self, new: Sequence[Row] = ()) -> tuple[Sequence[Row], Tensor, Tensor]:
        """Add a token to each row that has not ended, at least one; return these rows, ids (B,) and logits (B, V).

        new: of these rows only, those of requests that were added after the last step, so that their first tokens
        do not wait for a step.
        """
        (rows, logits), drawn, start = self._batch.logits(new), list[Tensor](), 0
        for draws, own in groupby(rows, attrgetter("draws")):
            numbers = [row.number for row in own]
            drawn.append(draws(logits[start : start + len(numbers)], numbers))
            start += len(numbers)
        ids = torch.cat(drawn)
        self._batch.add(ids.tolist())
        return rows, ids, logits


class _Draws:
    """Draw the tokens of a request's rows."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
        device, rows = next(model.parameters()).device, len(prompts) * sampling.num_samples
        self._sampling, self._generator = sampling, torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)
            rows = sampling.num_samples  # all prompts have the noise of one
        self._noise = torch.empty(rows, model.config.vocab_size, device=device)
        self._seen: Tensor | None = None
        if sampling.repetition_penalty != 1:
            shape = len(prompts) * sampling.num_samples, model.config.vocab_size
            self._seen = torch.zeros(shape, dtype=torch.bool, device=device)
            for row, seen in enumerate(self._seen):
                seen[torch.tensor([*prompts[row // sampling.num_samples]], device=device)] = True

    def __call__(self, logits: Tensor, numbers: Sequence[int]) -> Tensor:
        """Draw a token for rows with these numbers: logits (B, V) to ids (B,)."""
        noise, rows = None, torch.tensor(numbers, device=logits.device)
        if self._sampling.temperature > 0:
            noise = self._noise.exponential_(generator=self._generator)
            noise = noise[rows % len(noise)]
        ids = next_token(logits, self._sampling, noise, None if self._seen is None else self._seen[rows])
        if self._seen is not None:
            self._seen[rows, ids] = True
        return ids


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
