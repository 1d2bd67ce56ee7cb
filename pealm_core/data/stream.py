"""Token shards read as one stream, with what is known of them: which tokens are learned, where documents start."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import Tokenizer, has
from pealm_core.contract.training_parts import IGNORE, Batch
from pealm_core.data.specials import WithSpecials

SPLITS = ("train", "val")


class Shard(Protocol):
    """A 1-D array of numbers, or an object that reads slices of one, as `TokenFile` does."""

    def __len__(self) -> int: ...

    def __getitem__(self, window: slice) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Split:
    """The tokens of a split.

    masks: for each shard an array as long as it, 0 where a token is not learned; empty: all are learned.
    offsets: for each shard the places where its documents start, in order; empty: unknown.
    """

    shards: Sequence[Shard]
    masks: Sequence[Shard] = field(default=())
    offsets: Sequence[Shard] = field(default=())


@dataclass(frozen=True)
class Corpus:
    """Tokenized data: each split, and a hash (`key`) of their content."""

    train: Split
    val: Split
    key: str
    characters_per_token: float | None  # of val; None: unknown
    cached: bool


class Stream:
    """Shards as one array: `stream.read(start, row)`."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = [shard for shard in shards if len(shard)]
        self._ends = list(accumulate(map(len, self.shards)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, row: NDArray[Any]) -> None:
        """Fill a row with what the stream has from `start` on, out of as many shards as it takes."""
        shard, done = bisect_right(self._ends, start), 0
        while done < len(row):
            offset = start + done - (self._ends[shard] - len(self.shards[shard]))
            part = self.shards[shard][offset : offset + len(row) - done]
            row[done : done + len(part)] = part
            shard, done = shard + 1, done + len(part)


def batch(tokens: NDArray[np.int64], learned: NDArray[np.bool_] | None = None) -> Batch:
    """Return rows of T + 1 tokens as idx and targets, each int64 of shape (n, T), with IGNORE where not learned."""
    rows = torch.from_numpy(tokens)
    idx, targets = (part.clone(memory_format=torch.contiguous_format) for part in (rows[:, :-1], rows[:, 1:]))
    if learned is not None:
        targets[~torch.from_numpy(learned)[:, 1:]] = IGNORE
    return {"idx": idx, "targets": targets}


def open_shards(dataset: Any, tokenizer: Tokenizer) -> Corpus:
    """Return the shards of a tokenized dataset. Raises UserError if they have ids beyond the vocabulary.

    The key is a hash of the length and of both ends of every shard: hashing all of billions of tokens takes too long.
    """
    digest, size = hashlib.sha256(), tokenizer.vocab_size
    sizes = (None, size, tokenizer.tokenizer.vocab_size if isinstance(tokenizer, WithSpecials) else size)
    if (recorded := getattr(dataset, "vocab_size", None)) not in sizes:
        raise UserError(f"the tokens are of a vocabulary of {recorded:,} and the tokenizer has {size:,}")
    if has(dataset, "check"):
        dataset.check(size)
    splits = {}
    for name in SPLITS:
        arrays = {kind: _arrays(dataset, kind, name) for kind in ("shards", "masks", "offsets")}
        for kind, array in ((kind, array) for kind, several in arrays.items() for array in several):
            ends = (np.asarray(part).astype("<u4").tobytes() for part in (array[:4096], array[-4096:]))
            label = name if kind == "shards" else kind
            digest.update(f"{label} {len(array)} ".encode() + b"".join(ends))
        lengths, masked = ([len(array) for array in arrays[kind]] for kind in ("shards", "masks"))
        if masked and masked != lengths:
            raise UserError(f"the {name} shards have {lengths} tokens, and their masks {masked} entries")
        splits[name] = Split(**arrays)
    return Corpus(splits["train"], splits["val"], digest.hexdigest(), None, cached=False)


def _arrays(dataset: Any, method: str, split: str) -> list[Shard]:
    """Return what a tokenized dataset has for each shard of a split, if anything."""
    return list(getattr(dataset, method)(split) or ()) if has(dataset, method) else []


def hash_of(facts: Any) -> str:
    """Return a hash of what can be JSON."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
