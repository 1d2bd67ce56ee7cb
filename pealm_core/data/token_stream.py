"""Token shards read as one stream, with what is known of them: which tokens are learned, where documents start."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import Tokenizer, has
from pealm_core.contract.training_protocols import IGNORE, Batch
from pealm_core.data.special_tokens import WithSpecials

SPLITS = ("train", "val")
Piece = tuple[int, int]  # of a stream: where it starts, and its length


class Shard(Protocol):
    """A 1-D array of numbers, or an object that reads slices of one, as `TokenFile` does."""

    def __len__(self) -> int: ...

    def __getitem__(self, window: slice) -> NDArray[Any]: ...


class Split:
    """The tokens of a split: shards that are read as one stream.

    masks: for each shard an array as long as it, 0 where a token is not learned; empty: all are learned.
    offsets: for each shard the places where its documents start, in order; empty: unknown.
    """

    def __init__(self, shards: Sequence[Shard], masks: Sequence[Shard] = (), offsets: Sequence[Shard] = ()) -> None:
        self.shards, self.masks, self.offsets = shards, masks, offsets
        self._ends = list(accumulate(map(len, shards)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, shards: Sequence[Shard], pieces: Iterable[Piece], row: NDArray[Any]) -> int:
        """Fill a row with pieces of the stream, one after the other; returns where the last one ends.

        shards: the split's own, or its masks.
        """
        end = 0
        for place, length in pieces:
            shard, stop = bisect_right(self._ends, place), end + length
            while end < stop:
                offset = place - (self._ends[shard] - len(shards[shard]))
                part = shards[shard][offset : offset + stop - end]
                row[end : end + len(part)] = part
                shard, place, end = shard + 1, place + len(part), end + len(part)
        return end

    def rows(self, rows: Sequence[Sequence[Piece]], block_size: int) -> Batch:
        """Return rows of pieces as idx and targets, each int64 of shape (n, T).

        Targets are IGNORE where a token is not learned, and where a row has no more pieces.
        """
        import torch  # here, since `pealm tokenize` needs the rest of this module and starts twice as fast without

        tokens = np.zeros((len(rows), block_size + 1), np.int64)
        learned = np.zeros(tokens.shape, np.bool_)
        for pieces, row, mask in zip(rows, tokens, learned, strict=True):
            mask[: self.read(self.shards, pieces, row)] = True
            if self.masks:
                self.read(self.masks, pieces, mask)
        # Each a tensor of its own: a mask must change the targets only.
        idx, targets = (torch.from_numpy(part.copy()) for part in (tokens[:, :-1], tokens[:, 1:]))
        if not learned.all():
            targets[~torch.from_numpy(learned)[:, 1:]] = IGNORE
        return {"idx": idx, "targets": targets}


@dataclass(frozen=True)
class Corpus:
    """The tokens of a dataset by split, and a hash (`key`) of their content."""

    train: Split
    val: Split
    key: str
    characters_per_token: float | None = None  # of val; None: unknown
    cached: bool = False


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
    return Corpus(splits["train"], splits["val"], digest.hexdigest())


def _arrays(dataset: Any, method: str, split: str) -> list[Shard]:
    """Return what a tokenized dataset has for each shard of a split, if anything."""
    return list(getattr(dataset, method)(split) or ()) if has(dataset, method) else []


def hash_of(facts: Any) -> str:
    """Return a hash of what can be JSON."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
