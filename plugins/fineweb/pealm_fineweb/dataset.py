"""FineWeb-Edu as documents, and the shards that `pealm prepare fineweb` writes."""

from collections.abc import Callable, Iterator, Sequence

import click
import numpy as np

from pealm_core import TokenFile, UserError
from pealm_fineweb.config import FinewebConfig, FinewebEduConfig
from pealm_fineweb.files import HubFile, LocalFile, hub_files, local_files


class FinewebEdu:
    """The documents of a sample, or of parquet files on this machine."""

    def __init__(self, config: FinewebEduConfig | None = None) -> None:
        self.config = config or FinewebEduConfig()

    def split_parts(self) -> Sequence[HubFile | LocalFile]:
        """Return the files, for `pealm tokenize`; in build-nanogpt's layout all documents are of one stream."""
        return self._files(self.config.val_fraction if self.shard_name is None else None)

    def documents(self, split: str) -> Iterator[str]:
        """Yield the documents of a split, file by file; a file is downloaded into the hub's cache."""
        for file in self._files(self.config.val_fraction):
            for piece in file.fetch(None, quiet=False):
                yield from (text for name, text in piece.documents() if name == split)

    @property
    def shard_name(self) -> Callable[[int], str] | None:
        """The name of a shard of one stream by its number, as in build-nanogpt; None: each split has its shards."""
        if self.config.layout == "splits":
            return None
        return lambda number: f"edufineweb_{'train' if number else 'val'}_{number:06d}"

    def _files(self, val_fraction: float | None) -> Sequence[HubFile | LocalFile]:
        if self.config.source is not None:
            return local_files(self.config.source, val_fraction)
        return hub_files(self.config.sample, val_fraction)


class Fineweb:
    """FineWeb-Edu in GPT-2 tokens: the shards of a folder."""

    vocab_size = 50257  # GPT-2's

    def __init__(self, config: FinewebConfig | None = None) -> None:
        self.path = (config or FinewebConfig()).path

    def shards(self, split: str) -> list[TokenFile]:
        """Return the shards of "train" or "val" in the order of their names. Raises UserError."""
        paths = sorted(self.path.glob(f"edufineweb_{split}_*.npy"))
        if not paths:
            raise UserError(f"{self.path} has no {split} shards; `pealm prepare fineweb` makes them")
        shards = []
        for path in paths:
            try:
                ids = np.load(path, mmap_mode="r")  # for its header
                shards.append(TokenFile(path, ids.dtype, offset=ids.offset, count=len(ids)))
            except (OSError, ValueError) as error:
                raise UserError(f"{path} can't be read: {error}") from error
        return shards

    @property
    def prepare_command(self) -> click.Command:
        """Download and tokenize the documents."""
        from pealm_fineweb.command import command

        return command
