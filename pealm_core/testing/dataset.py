"""What a dataset must do."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest, mock

import numpy as np

from pealm_core.contract.errors import PealmError
from pealm_core.contract.protocols import has
from pealm_core.contract.specs import DatasetSpec
from pealm_core.testing.base import Conformance
from pealm_core.testing.watch import offline, watched

SPLITS = ("train", "val")


class DatasetConformance(Conformance):
    """A dataset, of text or of tokens.

    config: where its data lies, and how little of it suffices. documents: how many of each split are looked at.
    elsewhere: settings with which the data would have to be downloaded first; {}: the plugin's defaults.
    """

    kind = DatasetSpec
    documents: ClassVar[int] = 1000
    elsewhere: ClassVar[Mapping[str, Any]] = {}

    def read(self, split: str) -> Iterator[str]:
        """Hashes of the split's documents or shards, in order, and what is wrong with them."""
        data = self.make()
        try:
            if has(data, "shards"):
                yield from (_shard(shard) for shard in data.shards(split))
                return
            documents = data.documents(split)
            assert not isinstance(documents, str), "documents(split) gives one text: give a list or iterator of texts"
            for text in islice(documents, self.documents):
                assert isinstance(text, str), f"a document of {split!r} is {text!r:.60}, no str"
                yield hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        except PealmError as error:
            if self.config:
                raise AssertionError(f"its documents can't be read: {error}") from error
            raise SkipTest(f"its data is not here: {error}") from error

    def test_making_it_touches_nothing(self) -> None:
        """Catches a download, a scan or a message as soon as `--help` or `--print-config` makes the dataset."""
        with offline(), watched() as seen:
            try:
                self.make()
            except (PealmError, OSError) as error:
                raise AssertionError(
                    f"making the dataset fails without a network ({error}): leave that to documents or prepare"
                ) from error
        assert not seen, f"making the dataset {' and '.join(seen)}: leave that to documents or prepare"

    def test_both_splits_have_something(self) -> None:
        """Catches a split that is empty: training has nothing to learn from, or nothing to be judged by."""
        for split in SPLITS:
            assert next(self.read(split), None) is not None, (
                f"the split {split!r} is empty: keep a part of the documents back for it"
            )

    def test_every_pass_is_the_same(self) -> None:
        """Catches documents in an order of chance, and an iterator that is used up after its first pass."""
        for split in SPLITS:
            assert list(self.read(split)) == list(self.read(split)), (
                f"two passes over {split!r} give other documents: seed the order, sort what the disk lists"
            )
        data = self.make()
        if has(data, "documents"):
            first, second = (list(islice(_texts(data, "train"), self.documents)) for _ in range(2))
            assert first == second, (
                "a second documents('train') of one dataset gives other documents: start anew on every call"
            )

    def test_train_and_val_share_nothing(self) -> None:
        """Catches validation on what was trained on: the loss would be too good, and nobody would see why."""
        train = set(self.read("train"))
        shared = [number for number, mark in enumerate(self.read("val")) if mark in train]
        assert not shared, (
            f"document {shared[0]} of 'val' is in 'train' as well ({len(shared)} are): split before shuffling or "
            f"repeating, and drop duplicates"
        )

    def test_without_a_network_it_says_so_in_one_line(self) -> None:
        """Catches a traceback, or a wait of minutes, where the data is not there and can't be fetched."""
        try:
            config = self.entry.config(**self.elsewhere) if self.entry.config else None
        except TypeError:
            raise SkipTest("it has no default place") from None
        with tempfile.TemporaryDirectory() as folder, offline(), mock.patch.dict(os.environ, {"PEALM_CACHE": folder}):
            data = self.entry.load("factory")(*([] if config is None else [config]))
            try:
                for split in SPLITS:
                    next(iter(data.shards(split) if has(data, "shards") else data.documents(split)), None)
            except (PealmError, ValueError) as error:
                assert "\n" not in str(error).strip() and str(error), f"offline, it says more than a line: {error}"
            except Exception as error:
                raise AssertionError(
                    f"offline it raises {type(error).__name__}: {error}; raise UserError with what is missing and "
                    f"which option takes a local copy"
                ) from error
            left = [str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()]
            assert not left, f"a failed download leaves {', '.join(left)}: write aside and rename when it is whole"

    def test_what_it_knows_of_itself_is_right(self) -> None:
        """Catches an entropy_floor that is no number of nats, and shards with ids beyond their vocab_size."""
        data = self.make()
        floor = getattr(data, "entropy_floor", None)
        assert floor is None or (isinstance(floor, float | int) and floor > 0), (
            f"entropy_floor is {floor!r}: a positive number of nats per character, no method"
        )
        if has(data, "shards"):
            size = getattr(data, "vocab_size", None)
            for split in SPLITS:
                next(self.read(split), None)  # skips where the data is not here
                for number, shard in enumerate(data.shards(split)):
                    largest = int(np.asarray(shard[: 2**16]).max(initial=0))
                    assert size is None or largest < size, (
                        f"shard {number} of {split!r} has id {largest}, and vocab_size is {size}"
                    )


def _texts(data: Any, split: str) -> Iterator[str]:
    try:
        yield from data.documents(split)
    except PealmError as error:
        raise SkipTest(f"its data is not here: {error}") from error


def _shard(shard: Any) -> str:
    ids = np.asarray(shard[: 2**16])
    assert ids.ndim == 1 and np.issubdtype(ids.dtype, np.integer), (
        f"a shard gives {ids.dtype} of shape {ids.shape}: shards are 1-D and of whole numbers"
    )
    return hashlib.sha256(f"{len(shard)} ".encode() + ids.astype("<u4").tobytes()).hexdigest()
