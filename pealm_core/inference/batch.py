"""The forward passes of texts that grow by one token at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from pealm_core.contract.protocols import has
from pealm_core.inference.kv_cache import UnsupportedError
from pealm_core.inference.recorded_pass import WORTH, Recorded, one_token_pass
from pealm_cpu import products

NGRAM = 3  # tokens that must have occurred before to guess what follows them
FEW = 2  # guessed tokens that cost next to nothing: matrix products take three rows in the time of one
PAUSE = 64  # most tokens without a guess after wrong ones


@dataclass(eq=False)
class Row:
    """A text that grows. number: its place in its request. remaining: tokens that may follow; 0: it has ended."""

    draws: Any
    number: int
    window: list[int]
    remaining: int


@dataclass
class _Part:
    """Rows that share a pass; one that has ended may stay for a while, since leaving costs a copy of the cache."""

    rows: list[Row]
    cache: Any
    run: Any = None


class Batch:
    """Texts in windows of at most block_size tokens, and what caches have read of them.

    Rows of different lengths share a pass if their caches can be joined and the model supports that; else those of
    equal length do. A window that is full restarts from its last half. `rows`: the texts that have not ended.
    """

    def __init__(self, model: Any, *, use_cache: bool, graphs: bool, guess: int) -> None:
        self._model, self._block, self._device = model, model.config.block_size, next(model.parameters()).device
        self._graphs = graphs and (self._device.type == "cuda" or not guess)  # a recorded pass is of one token
        self._caches = use_cache and has(model, "make_cache")
        self.rows = list[Row]()
        self._unread = list[tuple[tuple[int, ...], list[Row]]]()  # rows of a window; those of a key share a pass
        self._full = set[Row]()
        self._parts = list[_Part]()
        self._joins: bool | None = None  # whether the model can run with a joined cache
        self._calm = WORTH  # steps since rows joined others: recording a pass that soon changes is not worth it
        self._guess, self._ahead = Guess(guess), list[tuple[int, Tensor]]()
        self._due: Sequence[Row] = ()  # those whose logits were computed last

    def enter(self, draws: Any, prompts: Sequence[Sequence[int]], samples: int, tokens: int) -> list[Row]:
        """Add rows, `samples` for each prompt, that are read together; return them."""
        self._calm = 0 if self.rows else WORTH
        if self._ahead:
            self._parts[0].cache.cut(len(self._ahead))
            self._ahead = []
        before = len(self.rows)
        for prompt in prompts:
            window, first = [*map(int, prompt)][-self._block :], len(self.rows) - before
            group = [Row(draws, first + sample, [*window], tokens) for sample in range(samples)]
            self._unread.append(((len(window), samples, before), group))
            self.rows += group
        return self.rows[before:]

    def logits(self, new: Sequence[Row] = ()) -> tuple[Sequence[Row], Tensor]:
        """Return the rows that have not ended, and the logits (B, V) of what follows each.

        new: only these, which were added after the last step, whole requests in their order.
        """
        self.leave()
        if new:
            new, done = [row for row in new if row.remaining > 0], self._read(new)
        else:
            self._calm += 1
            done = [*self._run_parts(), *self._read()]
        self._due, rows = new or self.rows, [row for part, _ in done for row in part]
        logits = done[0][1] if len(done) == 1 else torch.cat([logits for _, logits in done])
        if rows != self._due:
            places = {row: place for place, row in enumerate(rows)}
            logits = logits[[places[row] for row in self._due]]
        return self._due, logits

    def add(self, tokens: Sequence[int]) -> None:
        """Add a token to each of the rows whose logits were computed."""
        new = dict.fromkeys(self._due, 0)
        if self._due is self.rows:  # the others, which have ended, were in the pass as well
            new |= {row: 0 for part in self._parts for row in part.rows}
        new |= dict(zip(self._due, tokens, strict=True))
        self._full = {row for row in new if len(row.window) == self._block}
        for row, token in new.items():
            if row in self._full:
                del row.window[: self._block - max(0, self._block // 2 - 1)]
            row.window.append(token)
            row.remaining -= 1
        for row in self._due:
            if row in self._full or not self._caches:
                self._unread.append(((len(row.window), 1), [row]))

    def leave(self) -> None:
        """Forget the rows that have ended."""
        self.rows = [row for row in self.rows if row.remaining > 0]
        self._unread = [each for each in self._unread if any(row.remaining > 0 for row in each[1])]
        self._parts = [part for part in map(self._leave, self._parts) if part.rows]

    def _leave(self, part: _Part) -> _Part:
        """Take rows that have ended or have to be read again out of a part, if enough have ended."""
        stay = [place for place, row in enumerate(part.rows) if row.remaining > 0 and row not in self._full]
        ended, must = len(part.rows) - len(stay), not self._full.isdisjoint(part.rows)
        if stay and not (must or (4 * ended >= len(part.rows) and has(part.cache, "select"))):
            return part
        rows = [part.rows[place] for place in stay]
        return _Part(
            rows, part.cache.select(torch.tensor(stay, device=self._device)) if rows and ended else part.cache
        )

    def _run_parts(self) -> list[tuple[list[Row], Tensor]]:
        apart = self._parts
        self._parts = self._join()
        for part in self._parts:
            if part.run is None or self._calm == WORTH:
                longest = max(len(row.window) for row in part.rows)
                tokens = min(self._block + 1 - longest, max(row.remaining for row in part.rows))
                graphs = self._graphs and self._calm >= WORTH
                part.run = one_token_pass(self._model, part.cache, tokens, graphs=graphs)
        try:
            done = [(part.rows, self._run(part)) for part in self._parts]
        except UnsupportedError:
            if self._joins or len(self._parts) == len(apart):
                raise
            self._parts, self._joins = apart, False
            return self._run_parts()
        self._joins = self._joins if len(self._parts) == len(apart) else True
        return done

    def _run(self, part: _Part) -> Tensor:
        """Return the logits (B, V) after the last tokens of a part's rows, which may be known from a guess."""
        row = part.rows[0]
        if self._ahead:
            guessed, logits = self._ahead[0]
            if row.window[-1] == guessed:
                del self._ahead[0]
                return logits
            part.cache.cut(len(self._ahead))
        tokens, alone = [[row.window[-1]] for row in part.rows], len(part.rows) == len(self._parts) == 1
        if alone and has(part.cache, "cut") and not isinstance(part.run, Recorded):
            room = min(self._block - len(row.window), row.remaining - 1)
            tokens[0] += (guess := self._guess(row.window, room, len(self._ahead)))
        self._ahead = []
        idx = torch.tensor(tokens, device=self._device)
        if idx.shape[1] == 1:
            return part.run(idx)[:, -1]  # type: ignore[no-any-return]
        logits, _ = self._model(idx, cache=part.cache)
        self._ahead = [(token, logits[:, place]) for place, token in enumerate(guess, 1)]
        return logits[:, 0]  # type: ignore[no-any-return]

    def _read(self, new: Sequence[Row] = ()) -> list[tuple[list[Row], Tensor]]:
        """Read windows, all or those of new rows, from their start.

        Those of equal length are read together; the samples of a prompt as one.
        """
        done, key = [], itemgetter(0)
        now = [each for each in self._unread if not new or each[1][0] in new]
        self._unread = [each for each in self._unread if new and each[1][0] not in new]
        for (length, samples, *_), same in groupby(sorted(now, key=key), key):
            groups = [group for _, group in same]
            rows = [row for group in groups for row in group]
            idx = torch.tensor([group[0].window for group in groups], device=self._device)
            most = min(self._block, length + max(row.remaining for row in rows))
            cache = self._model.make_cache(len(idx), most) if self._caches else None
            with products(self._device):
                logits, _ = self._model(idx, cache=cache, at=[-1])
            if samples > 1:
                logits = logits.repeat_interleave(samples, dim=0)
                cache = cache if cache is None else cache.repeat(samples)
            if cache is not None:
                self._parts.append(_Part(rows, cache))
            done.append((rows, logits[:, -1]))
        return done

    def _join(self) -> list[_Part]:
        """Return one part of all, where caches can: new rows take the places of ended ones, or all are copied."""
        parts = self._parts
        able = all(has(part.cache, name) for part in parts for name in ("join", "select"))
        if len(parts) < 2 or not able or self._joins is False:
            return parts
        first, *others = parts
        if self._joins and has(first.cache, "put"):
            others = [part for part in others if not self._put(first, part)]
        if not others:
            return [first]
        cache = first.cache.join([part.cache for part in others])
        return [_Part([row for part in (first, *others) for row in part.rows], cache)]

    def _put(self, first: _Part, part: _Part) -> bool:
        """Move rows to places of ended ones, if there are enough, with enough room."""
        places = [place for place, row in enumerate(first.rows) if row.remaining <= 0][: len(part.rows)]
        cache = first.cache.put(places, part.cache) if len(places) == len(part.rows) else None
        if cache is None:
            return False
        first.cache, first.run = cache, None
        for place, row in zip(places, part.rows, strict=True):
            first.rows[place] = row
        return True


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
