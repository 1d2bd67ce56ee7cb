"""Checks for datasets."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest, mock

import numpy as np
import torch

from pealm_core import DatasetSpec, PealmError, Segment
from pealm_testing.base import ComponentConformance
from pealm_testing.core import has
from pealm_testing.dummies import Bytes
from pealm_testing.errors import ConformanceError
from pealm_testing.watch import offline

SPLITS = ("train", "val")
HEAD = 2**16  # tokens of a shard that are read
BLOCK = 16  # tokens in a row of a dataset's own source


class DatasetConformance(ComponentConformance):
    """A dataset of texts, of tokens, or with a source of its own.

    config: where its data is; small sizes. documents: how many of each split are read.
    """

    kind = DatasetSpec
    documents: ClassVar[int] = 1000

    def read(self, split: str, data: Any = None) -> Iterator[str]:
        """Yield a hash of each document or shard of a split, in order; check their types."""
        data = self.make() if data is None else data
        try:
            if has(data, "shards"):
                yield from (_hash_shard(shard) for shard in data.shards(split))
                return
            if has(data, "source") and not has(data, "documents"):
                raise SkipTest("it makes its own samples")
            documents = data.documents(split)
            if isinstance(documents, str):
                raise ConformanceError("documents(split) gives one text: return a list or iterator of texts")
            for document in islice(documents, self.documents):
                segments = isinstance(document, Sequence) and all(isinstance(part, Segment) for part in document)
                if not isinstance(document, str) and not segments:
                    raise ConformanceError(f"a document of {split!r} is {document!r:.60}, not a str or Segments")
                text = document if isinstance(document, str) else repr(document)
                yield hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        except PealmError as error:
            if self.config:
                raise ConformanceError(f"its documents can't be read: {error}") from error
            raise SkipTest(f"its data is not here: {error}") from error

    def test_both_splits_have_documents(self) -> None:
        """Catches an empty split: nothing to train on, or nothing to validate on."""
        for split in SPLITS:
            if next(self.read(split), None) is None:
                raise ConformanceError(f"the split {split!r} is empty: reserve some documents for it")

    def test_documents_are_deterministic(self) -> None:
        """Catches documents in random order, and an iterator that is exhausted after its first use."""
        for split in SPLITS:
            if list(self.read(split)) != list(self.read(split)):
                raise ConformanceError(
                    f"two datasets give different documents for {split!r}: seed the order, sort directory listings"
                )
        data = self.make()
        first, second = (list(self.read("train", data)) for _ in range(2))
        if first != second:
            raise ConformanceError(
                "a second call of documents('train') gives different documents: start from the top"
            )

    def test_splits_are_disjoint(self) -> None:
        """Catches validation on training data: the loss would be too low."""
        train = set(self.read("train"))
        if shared := [number for number, digest in enumerate(self.read("val")) if digest in train]:
            raise ConformanceError(
                f"document {shared[0]} of 'val' is also in 'train' ({len(shared)} in all): split before shuffling or "
                f"repeating, and remove duplicates"
            )

    def test_samples_depend_on_their_numbers_alone(self) -> None:
        """Catches an own source that counts or draws: a resumed run, or two processes, would see other samples."""
        data = self.make()
        if not has(data, "source"):
            raise SkipTest("it has no source of its own")
        for split in SPLITS:
            source, other = _source(data, split), _source(self.make(), split)
            together, alone = source.rows(range(4)), [other.rows([number]) for number in (3, 2, 1, 0)][::-1]
            shapes = {name: tuple(together[name].shape) for name in ("idx", "targets") if name in together}
            if shapes != {"idx": (4, BLOCK), "targets": (4, BLOCK)}:
                raise ConformanceError(f"rows(range(4)) of {split!r} has the shapes {shapes}, not (4, block_size)")
            for name, values in together.items():
                if not torch.equal(values, torch.cat([rows[name] for rows in alone])):
                    raise ConformanceError(
                        f"{name} of {split!r} differs between samples drawn at once and one by one: "
                        f"seed a generator of its own for each sample's number"
                    )
            if len(source) < 1 or source.block_size != BLOCK or source.tokens < 1:
                raise ConformanceError(f"the source of {split!r} needs len(), block_size as asked for, and tokens")

    def test_clear_error_without_network(self) -> None:
        """Catches a traceback, a long wait or a partial file if the default data can't be downloaded."""
        try:
            config = self.entry.config() if self.entry.config else None
        except TypeError:
            raise SkipTest("it has settings without a default") from None
        with tempfile.TemporaryDirectory() as folder, offline(), mock.patch.dict(os.environ, {"PEALM_CACHE": folder}):
            data = self.entry.load("factory")(*([] if config is None else [config]))
            try:
                for split in SPLITS:
                    if has(data, "source"):
                        _source(data, split).rows(range(1))
                    else:
                        next(iter(data.shards(split) if has(data, "shards") else data.documents(split)), None)
            except (PealmError, ValueError) as error:
                if len(str(error).strip().splitlines()) != 1:
                    raise ConformanceError(f"without a network, the error is not one line: {error}") from error
            except Exception as error:
                raise ConformanceError(
                    f"without a network it raises {type(error).__name__}: {error}; raise a UserError that says what "
                    f"is missing and which option names a local copy"
                ) from error
            if files := [str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()]:
                raise ConformanceError(
                    f"a failed download leaves {', '.join(files)}: write to a temporary name and rename when complete"
                )

    def test_attributes_are_valid(self) -> None:
        """Catches an entropy_floor that is not a number of nats, and shards with ids above their vocab_size."""
        data = self.make()
        floor = getattr(data, "entropy_floor", None)
        if floor is not None and not (isinstance(floor, float | int) and floor > 0):
            raise ConformanceError(f"entropy_floor is {floor!r}: give a positive number of nats per character")
        size = getattr(data, "vocab_size", None)
        if not has(data, "shards") or size is None:
            return
        for split in SPLITS:
            next(self.read(split), None)  # skips if the data is not here
            for number, shard in enumerate(data.shards(split)):
                largest = int(np.asarray(shard[:HEAD]).max(initial=0))
                if largest >= size:
                    raise ConformanceError(f"shard {number} of {split!r} has id {largest}, but vocab_size is {size}")


def _source(data: Any, split: str) -> Any:
    specials = getattr(data, "specials", ())
    return data.source(split, tokenizer=Bytes(specials), block_size=BLOCK, seed=1)


def _hash_shard(shard: Any) -> str:
    ids = np.asarray(shard[:HEAD])
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise ConformanceError(f"a shard is {ids.dtype} of shape {ids.shape}: shards are 1-D arrays of integers")
    return hashlib.sha256(f"{len(shard)} ".encode() + ids.astype("<u4").tobytes()).hexdigest()
