"""Documents in a column of a dataset that Hugging Face's `datasets` reads."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pealm_core import UserError
from pealm_files import is_validation
from pealm_hf_datasets.config import HFDatasetConfig


class HFDataset:
    """The rows of a dataset with a text; its files are parts that are read independently."""

    def __init__(self, config: HFDatasetConfig) -> None:
        self.config = config

    def documents(self, split: str) -> Iterator[str]:
        """Yield the documents of a split in the order of the files and rows. Raises UserError."""
        for part in self.parts(split):
            yield from part.documents()

    def whole(self) -> Iterator[str]:
        """Yield all documents of both splits."""
        for name in filter(None, (self.config.train_split, self.config.val_split)):
            yield from _texts(self.config, _load(self.config, name))

    def parts(self, split: str) -> list["Part"]:
        """Return a part for each file of the split. Raises UserError."""
        name = self.config.val_split if split == "val" else None
        return [Part(both, split) for both in self._parts(name or self.config.train_split)]

    def split_parts(self) -> list["SplitPart"]:
        """Return the parts of both splits, each of which is read once. Raises UserError."""
        val = [] if self.config.val_split is None else self._parts(self.config.val_split)
        return [*val, *self._parts(self.config.train_split)]

    def _parts(self, name: str) -> list["SplitPart"]:
        rows = _load(self.config, name)
        count = max(1, int(rows.num_shards)) if self.config.streaming else 1
        known = (rows.info.splits or {}).get(name)
        size = (known.num_bytes or 0) // count if known is not None else 0
        return [SplitPart(self.config, name, index, count, size) for index in range(count)]


@dataclass(frozen=True)
class SplitPart:
    """The documents in file `index` of `count` of a split. size: bytes, 0 if the dataset doesn't say."""

    config: HFDatasetConfig
    own_name: str
    index: int
    count: int
    size: int

    @property
    def name(self) -> str:
        """The dataset, its split, and which file."""
        return f"{self.config.dataset} {self.own_name} {self.index}/{self.count}"

    @property
    def version(self) -> str:
        """What is read of it."""
        return repr(self.config)

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield each document with its split. Raises UserError."""
        rows = _load(self.config, self.own_name)
        if self.count > 1:
            rows = rows.shard(num_shards=self.count, index=self.index)
        for text in _texts(self.config, rows):
            if self.config.val_split is not None:
                val = self.own_name == self.config.val_split
            else:
                val = is_validation(text, self.config.val_fraction)
            yield "val" if val else "train", text


@dataclass(frozen=True)
class Part:
    """The documents of one split in a file."""

    both: SplitPart
    split: str

    @property
    def name(self) -> str:
        """The dataset, its split, and which file."""
        return self.both.name

    @property
    def size(self) -> int:
        """The number of bytes, 0 if the dataset doesn't say."""
        return self.both.size

    @property
    def version(self) -> str:
        """What is read of it."""
        return self.both.version

    def documents(self) -> Iterator[str]:
        """Yield the documents. Raises UserError."""
        return (text for split, text in self.both.documents() if split == self.split)


def _load(config: HFDatasetConfig, split: str) -> Any:
    """Open a split, in which the column is. Raises UserError."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"--input.hf-dataset needs the package datasets: pip install datasets ({error})") from error
    datasets.disable_progress_bars()
    for library in ("datasets", "huggingface_hub"):  # they log what they then raise
        logging.getLogger(library).setLevel(logging.CRITICAL)
    with _clear(config):
        rows = datasets.load_dataset(
            config.dataset, config.config, split=split, revision=config.revision, streaming=config.streaming
        )
        names = rows.column_names or list(next(iter(rows), {}))  # a stream knows them when it is read
    if config.column not in names:
        listed = ", ".join(names[:20]) or "none"
        raise UserError(
            f"--input.hf-dataset {config.dataset} has no column {config.column!r}; its columns: {listed} "
            f"(--input.column NAME)"
        )
    return rows.select_columns([config.column])


def _texts(config: HFDatasetConfig, rows: Any) -> Iterator[str]:
    with _clear(config):
        for number, row in enumerate(rows, 1):
            text = row[config.column]
            if text is not None and not isinstance(text, str):
                raise UserError(
                    f"--input.hf-dataset {config.dataset}: column {config.column!r} has {text!r:.40} in row "
                    f"{number:,}, not text (--input.column NAME)"
                )
            if text:
                yield text


@contextmanager
def _clear(config: HFDatasetConfig) -> Iterator[None]:
    """Make one line of what `datasets` raises; its errors have no class in common."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise UserError(f"--input.hf-dataset {config.dataset} can't be read: {reason}") from error
