"""Scoring on a CPU: passes of one row without padding, in which tokens that requests have in common occur once.

Requests are sorted, so that those with the same beginning follow each other: the choices of a question, the questions
of a task with the same examples. A pass starts from keys and values of the one before, where they are the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pealm_core.inference.kv_cache import causal_attention
from pealm_core.inference.recorded_pass import FixedCache

TOKENS = 1024  # of a pass, unless one request is longer
ROWS = 16  # of logits at a time: they stay in the processor's cache
SHORT = 8  # fewer tokens in common are computed again


@dataclass(frozen=True)
class Piece:
    """A request, or a part of one that is longer than the block. cut: context tokens that did not fit."""

    request: int
    context: tuple[int, ...]
    continuation: tuple[int, ...]
    cut: int

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens to run: all but the last."""
        return self.context + self.continuation[:-1]


class Pass:
    """A row of tokens, after `before` tokens of the last pass. Indices count from the first of these.

    branches: for each part of the row, which shares nothing with the parts before, the index of its branches' first
    token and the indices of the tokens before it. scored: indices with logits. targets: a place in `scored`, the
    token to score there, and the place of its piece. keep: indices of the tokens that the next pass starts from.
    """

    def __init__(self, before: int) -> None:
        self.before, self.ids, self.positions = before, list[int](), list[int]()
        self.branches = list[list[tuple[int, list[int]]]]()
        self.pieces = list[Piece]()
        self.scored = dict[int, int]()
        self.targets = list[tuple[int, int, int]]()
        self.keep = list[int]()

    def add(self, piece: Piece, path: list[int]) -> list[int]:
        """Add a piece whose first tokens have the indices `path`; return the indices of all its tokens."""
        begin, new = self.before + len(self.ids), piece.ids[len(path) :]
        if not path or not self.ids:
            self.branches.append([])
        if new:
            self.branches[-1].append((begin, path))
        self.ids += new
        self.positions += range(len(path), len(path) + len(new))
        path = [*path, *range(begin, begin + len(new))]
        for index, token in zip(path[len(piece.context) - 1 :], piece.continuation, strict=True):
            self.targets.append((self.scored.setdefault(index, len(self.scored)), token, len(self.pieces)))
        self.pieces.append(piece)
        return path

    def parts(self) -> Iterator[tuple[int, int, int, Tensor | None]]:
        """Yield each part: its place in the row, the number of tokens before it, and a mask, if it has branches."""
        ends = [*(part[0][0] for part in self.branches[1:]), self.before + len(self.ids)]
        for part, end in zip(self.branches, ends, strict=True):
            begin, kept, mask = part[0][0], len(part[0][1]), None
            if len(part) > 1:
                mask = torch.ones(end - begin, kept + end - begin, dtype=torch.bool).tril_(kept)  # (T, S)
                for start, path in part[1:]:
                    mask[start - begin :, : kept + start - begin] = False
                    mask[start - begin :, torch.tensor(path) - (begin - kept)] = True
            yield begin - self.before, end - self.before, kept, mask


class TreeCache(FixedCache):
    """The keys and values of a pass. before: by layer, those of the tokens before it."""

    def __init__(self, tokens: Pass, before: dict[int, list[Tensor]]) -> None:
        self._parts, self._before, self.kept = list(tokens.parts()), before, dict[int, list[Tensor]]()
        self._positions, self._keep = torch.tensor(tokens.positions), torch.tensor(tokens.keep, dtype=torch.long)

    def positions(self, tokens: int) -> Tensor:
        """Return each token's position in its request, (1, T)."""
        return self._positions[None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Return the attention of each token to those before it in its request."""
        before = self._before.get(layer)
        if len(self._keep):
            both = (k, v) if before is None else [torch.cat(pair, 2) for pair in zip(before, (k, v), strict=True)]
            self.kept[layer] = [part.index_select(2, self._keep) for part in both]
        results, grouped = [], {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}
        for begin, end, kept, mask in self._parts:
            queries, keys, values = (part[:, :, begin:end] for part in (q, k, v))
            if kept and before is not None:
                keys, values = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
            if mask is None:
                results.append(causal_attention(queries, keys, values, dropout=dropout))
            else:
                results.append(F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, **grouped))
        return torch.cat(results, 2)


def passes(pieces: Sequence[Piece], most_tokens: int, most_scored: int) -> Iterator[Pass]:
    """Yield passes that score all pieces. most_scored: rows of logits, unless one piece has more."""
    current, path, last = Pass(0), list[int](), tuple[int, ...]()
    for piece in sorted(pieces, key=lambda piece: piece.ids):
        ids, first = piece.ids, len(piece.context) - 1
        differs = (n for n, (a, b) in enumerate(zip(last, ids, strict=False)) if a != b)
        path = _worth(path[: next(differs, min(len(last), len(ids)))])
        too_long = len(current.ids) + len(ids) - len(path) > most_tokens
        if current.ids and (too_long or len(current.scored) + len(piece.continuation) > most_scored):
            current.keep = _worth(path[:first])
            yield current
            current, path = Pass(len(current.keep)), [*range(len(current.keep))]
        elif first < len(path) and path[first] < current.before:  # its logits were not computed
            path = _worth(path[:first])
        path, last = current.add(piece, path), ids
    if current.ids:
        yield current


def _worth(path: list[int]) -> list[int]:
    return path if len(path) >= SHORT else []


def _normalizer(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each row of logits (n, V) the log of the sum of their exponentials, and the place of the largest."""
    most, best = logits.max(-1)  # several times as fast as argmax
    return (logits - most[:, None]).exp_().sum(-1).log_().add_(most), best


def run(
    model: Any, pieces: Sequence[Piece], most_tokens: int, most_scored: int
) -> Iterator[tuple[list[Piece], Tensor]]:
    """Yield pieces and, for each, its log-likelihood and how many tokens are not greedy: (n, 2) in float64.

    Raises UnsupportedError at once if the model uses more of a cache than `positions`, `attend` and `advance`.
    """
    kept: dict[int, list[Tensor]] = {}
    for row in passes(pieces, most_tokens, most_scored):
        cache = TreeCache(row, kept)
        at = torch.tensor([*row.scored]) - row.before
        logits = model(torch.tensor([row.ids]), cache=cache, at=at)[0][0].float()  # (n, V)
        places, tokens, owners = torch.tensor(row.targets).unbind(1)
        normalizers, best = (torch.cat(parts) for parts in zip(*map(_normalizer, logits.split(ROWS)), strict=True))
        log_p, other = logits[places, tokens] - normalizers[places], best[places] != tokens
        values = torch.stack([log_p.double(), other.double()], 1)
        kept = cache.kept
        yield row.pieces, values.new_zeros(len(row.pieces), 2).index_add_(0, owners, values)
