"""The forward passes of texts that grow by one token at a time."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pealm_core.contract.protocols import has
from pealm_core.inference.decoding import Recorded, one_token_pass
from pealm_core.inference.kv_cache import UnsupportedError

NGRAM = 3  # tokens that must have occurred before to guess what follows them
FEW = 2  # guessed tokens that cost next to nothing: matrix products take three rows in the time of one
PAUSE = 64  # most tokens without a guess after wrong ones


@dataclass
class _Part:
    """Rows that share a pass; one that has ended may stay for a while, since leaving costs a copy of the cache."""

    rows: list[int]
    cache: Any
    run: Any = None


class Batch:
    """Texts in windows of at most block_size tokens, and what caches have read of them.

    Rows of different lengths share a pass if their caches can be joined and the model supports that; else those of
    equal length do. A window that is full restarts from its last half. `rows`: the texts that have not ended.
    """

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], samples: int, *, use_cache: bool, graphs: bool, guess: int
    ) -> None:
        self._model, self._block, self._samples, self._graphs = model, model.config.block_size, samples, graphs
        self._device = next(model.parameters()).device
        self._caches = use_cache and has(model, "make_cache")
        self._windows = [[*map(int, prompt)][-self._block :] for prompt in prompts for _ in range(samples)]
        self.rows = [*range(len(self._windows))]
        self._unread, self._parts = self.rows, list[_Part]()
        self._apart: list[_Part] | None = None  # the parts of the last join, until the model has run with it
        self._joins: bool | None = None  # whether the model can run with it
        self._guess, self._ahead = Guess(guess), list[tuple[int, Tensor]]()

    def logits(self, remaining: int) -> Tensor:
        """Return the logits (B, V) of what follows each text. remaining: tokens still to come, with this one."""
        done = [*self._run_parts(remaining), *self._read(remaining)]
        self._join()
        rows = [row for part, _ in done for row in part]
        logits = done[0][1] if len(done) == 1 else torch.cat([logits for _, logits in done])
        if rows == self.rows:
            return logits
        places = {row: place for place, row in enumerate(rows)}
        return logits[[places[row] for row in self.rows]]

    def add(self, tokens: Sequence[int], active: Collection[int]) -> None:
        """Add a token to each text; those that are not active have ended."""
        new, full = dict(zip(self.rows, tokens, strict=True)), set[int]()
        for row, window in enumerate(self._windows):
            if len(window) == self._block:
                del window[: self._block - max(0, self._block // 2 - 1)]
                full.add(row)
            window.append(new.get(row, 0))
        self.rows = [row for row in self.rows if row in active]
        self._unread = [row for row in self.rows if row in full or not self._caches]
        self._parts = self._left(self._parts, full)
        self._apart = None if self._apart is None else self._left(self._apart, full)

    def _left(self, parts: Sequence[_Part], full: set[int]) -> list[_Part]:
        return [part for part in (self._leave(part, full) for part in parts) if part.rows]

    def _leave(self, part: _Part, full: set[int]) -> _Part:
        """Take rows that have ended or have to be read again out of a part, if enough have ended."""
        stay = [place for place, row in enumerate(part.rows) if row in self.rows and row not in full]
        ended, must = len(part.rows) - len(stay), not full.isdisjoint(part.rows)
        if stay and not (must or (4 * ended >= len(part.rows) and has(part.cache, "select"))):
            return part
        rows = [part.rows[place] for place in stay]
        return _Part(
            rows, part.cache.select(torch.tensor(stay, device=self._device)) if rows and ended else part.cache
        )

    def _run_parts(self, remaining: int) -> list[tuple[list[int], Tensor]]:
        for part in self._parts:
            if part.run is None:
                longest = max(len(self._windows[row]) for row in part.rows)
                tokens = min(self._block + 1 - longest, remaining)
                part.run = one_token_pass(self._model, part.cache, tokens, graphs=self._graphs)
        try:
            done = [(part.rows, self._run(part, remaining)) for part in self._parts]
        except UnsupportedError:
            if self._apart is None:
                raise
            self._parts, self._apart, self._joins = self._apart, None, False
            return self._run_parts(remaining)
        self._joins, self._apart = self._joins if self._apart is None else True, None
        return done

    def _run(self, part: _Part, remaining: int) -> Tensor:
        """Return the logits (B, V) after the last tokens of a part's rows, which may be known from a guess."""
        window = self._windows[part.rows[0]]
        if self._ahead:
            guessed, logits = self._ahead[0]
            if window[-1] == guessed:
                del self._ahead[0]
                return logits
            part.cache.cut(len(self._ahead))
        tokens = [[self._windows[row][-1]] for row in part.rows]
        if len(part.rows) == 1 and has(part.cache, "cut") and not isinstance(part.run, Recorded):
            guess = self._guess(window, min(self._block - len(window), remaining - 1), len(self._ahead))
            tokens[0] += guess
        self._ahead = []
        idx = torch.tensor(tokens, device=self._device)
        if idx.shape[1] == 1:
            return part.run(idx)[:, -1]  # type: ignore[no-any-return]
        logits, _ = self._model(idx, cache=part.cache)
        self._ahead = [(token, logits[:, place]) for place, token in enumerate(guess, 1)]
        return logits[:, 0]  # type: ignore[no-any-return]

    def _read(self, remaining: int) -> list[tuple[list[int], Tensor]]:
        """Read windows from their start, those of equal length together; the samples of a prompt as one."""
        done = []
        for length in sorted({len(self._windows[row]) for row in self._unread}):
            rows = [row for row in self._unread if len(self._windows[row]) == length]
            idx = torch.tensor([self._windows[row] for row in rows[:: self._samples]], device=self._device)
            cache = self._model.make_cache(len(idx), min(self._block, length + remaining)) if self._caches else None
            logits, _ = self._model(idx, cache=cache, at=[-1])
            if self._samples > 1:
                logits = logits.repeat_interleave(self._samples, dim=0)
                cache = cache if cache is None else cache.repeat(self._samples)
            if cache is not None:
                self._parts.append(_Part(rows, cache))
            done.append((rows, logits[:, -1]))
        self._samples = 1
        return done

    def _join(self) -> None:
        """Make one part of all, where caches can."""
        caches = [part.cache for part in self._parts]
        able = all(has(cache, name) for cache in caches for name in ("join", "select"))
        if len(caches) > 1 and able and self._joins is not False:
            self._apart = None if self._joins else self._parts
            self._parts = [_Part([row for part in self._parts for row in part.rows], caches[0].join(caches[1:]))]


class Guess:
    """Guess the next tokens of a text: those that followed the last occurrence of its last three (prompt lookup).

    Guesses get longer while they are right, and rare while they are wrong.
    """

    def __init__(self, most: int) -> None:
        self._most, self._width, self._made, self._pause, self._skip = most, min(most, FEW), 0, 0, 0
        self._places, self._known = dict[tuple[int, ...], int](), 0

    def __call__(self, text: Sequence[int], room: int, wrong: int) -> list[int]:
        """Return tokens, `room` at most. wrong: how many of the last ones were wrong."""
        if len(text) < self._known:  # a window that starts again
            self._places.clear()
            self._known = 0
        for end in range(max(NGRAM, self._known), len(text)):
            self._places[tuple(text[end - NGRAM : end])] = end
        self._known = len(text)
        if self._made:
            right = self._made - wrong
            self._width = min(self._most, FEW if wrong else 4 * self._made)
            self._pause = 0 if 2 * right >= self._made else min(PAUSE, 2 * self._pause + 1)
            self._made, self._skip = 0, self._pause
        at = self._places.get(tuple(text[-NGRAM:]))
        if self._skip or at is None:
            self._skip = max(0, self._skip - 1)
            return []
        period = len(text) - at
        guess = [text[at + place % period] for place in range(min(self._width, room))]
        self._made = len(guess)
        return guess
