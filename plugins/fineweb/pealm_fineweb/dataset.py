"""The shards that `pealm prepare fineweb` writes, as a dataset."""

import click
import numpy as np

from pealm_core import TokenFile, UserError
from pealm_fineweb.config import VOCAB_SIZE, FinewebConfig


class Fineweb:
    """FineWeb-Edu in GPT-2 tokens."""

    vocab_size = VOCAB_SIZE

    def __init__(self, config: FinewebConfig | None = None) -> None:
        self.path = (config or FinewebConfig()).path

    def shards(self, split: str) -> list[TokenFile]:
        """The shards of "train" or "val" in the order of their names. Raises UserError."""
        paths = sorted(self.path.glob(f"edufineweb_{split}_*.npy"))
        if not paths:
            raise UserError(f"{self.path} has no {split} shards; `pealm prepare fineweb` makes them")
        found = []
        for path in paths:
            try:
                ids = np.load(path, mmap_mode="r")  # only for what its header says
                found.append(TokenFile(path, ids.dtype, offset=ids.offset, count=len(ids)))
            except (OSError, ValueError) as error:
                raise UserError(f"{path} can't be read: {error}") from error
        return found

    def prepare(self) -> None:
        """Download and tokenize all of it into the folder, with a worker on every core."""
        from pealm_fineweb.prepare import Plan, prepare

        prepare(Plan(out=self.path))

    @property
    def prepare_command(self) -> click.Command:
        """The same with options."""
        from pealm_fineweb.command import command

        return command
