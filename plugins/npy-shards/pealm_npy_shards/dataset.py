"""A folder of token shards: its files in order, and a check of their ids against a vocabulary."""

import json
import re
from functools import cached_property
from pathlib import Path

from pealm_core import TokenFile, UserError
from pealm_npy_shards.config import FINEWEB, NpyShardsConfig
from pealm_npy_shards.shard import open_shard

SUFFIXES = (".npy", ".bin")
META = "meta.json"
INCOMPLETE = ".tokenize"  # a folder of `pealm tokenize`, removed at its end
SCAN_TOKENS, SCAN_BLOCKS = 2**22, 64  # of each shard, at most


class NpyShards:
    """The files that have "train" or "val" as a word of their names, in the order of their names."""

    def __init__(self, config: NpyShardsConfig | None = None) -> None:
        self.path = (config or NpyShardsConfig()).path
        self._opened: dict[str, list[TokenFile]] = {}

    def shards(self, split: str) -> list[TokenFile]:
        """Return the shards of "train" or "val", checked once. Raises UserError with the name of a wrong file."""
        if split not in self._opened:
            self._opened[split] = [open_shard(path) for path in self._files(split)]
        return self._opened[split]

    def masks(self, split: str) -> list[TokenFile] | None:
        """Return the files `NAME.mask` beside the shards: a byte for each token, 0 where it is not learned."""
        return self._beside(split, ".mask", "u1")

    def offsets(self, split: str) -> list[TokenFile] | None:
        """Return the files `NAME.offsets` beside the shards: where documents start, each a uint64."""
        return self._beside(split, ".offsets", "<u8")

    def _beside(self, split: str, suffix: str, dtype: str) -> list[TokenFile] | None:
        """Open a file beside each shard; None if no shard has one. Raises UserError if only some have."""
        shards = self.shards(split)
        paths = [shard.path.with_suffix(suffix) for shard in shards]
        if not any(path.exists() for path in paths):
            return None
        counts = [len(shard) if suffix == ".mask" else None for shard in shards]
        return [TokenFile(path, dtype, count=count) for path, count in zip(paths, counts, strict=True)]

    @cached_property
    def vocab_size(self) -> int | None:
        """The vocabulary size in `meta.json` beside the shards, or None. Raises UserError if the file is broken."""
        path = self.path / META
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} can't be read: {error}") from error
        size = meta.get("vocab_size") if isinstance(meta, dict) else None
        if size is not None and (type(size) is not int or size < 1):
            raise UserError(f'{path}: "vocab_size" must be a positive whole number, not {size!r}')
        return size

    def check(self, vocab_size: int) -> None:
        """Check that all ids are in the vocabulary: all of a small shard, evenly spaced blocks of a large one.

        Raises UserError with the file, the id and its position.
        """
        for split in ("train", "val"):
            for shard in self.shards(split):
                _check(shard, vocab_size)

    def _files(self, split: str) -> list[Path]:
        if (self.path / INCOMPLETE).exists():
            raise UserError(f"--input.npy-shards {self.path} is incomplete: the same `pealm tokenize` resumes")
        try:
            names = sorted(path for path in self.path.iterdir() if path.suffix in SUFFIXES)
        except FileNotFoundError:
            hint = "; `python scripts/fineweb.py` makes it" if self.path == FINEWEB else ""
            raise UserError(f"--input.npy-shards {self.path}: no such folder{hint}") from None
        except OSError as error:
            raise UserError(f"--input.npy-shards {self.path}: {error.strerror}; give a folder of shards") from error
        paths = [path for path in names if split in _words(path)]
        for path in paths:
            if {"train", "val"} <= _words(path):
                raise UserError(f"{path} has both `train` and `val` in its name")
        if not paths:
            raise UserError(
                f"--input.npy-shards {self.path} has no {split} shard: no {' or '.join(SUFFIXES)} file "
                f"with the word `{split}` in its name, as in part_{split}_000001.npy"
            )
        return paths


def _words(path: Path) -> set[str]:
    """Return the words in a file's name: {"edufineweb", "train"}."""
    return set(re.findall(r"[a-z]+", path.stem.lower()))


def _check(shard: TokenFile, vocab_size: int) -> None:
    blocks = 1 if len(shard) <= SCAN_TOKENS else SCAN_BLOCKS
    size = min(len(shard), SCAN_TOKENS) // blocks
    for number in range(blocks):
        start = number * (len(shard) - size) // max(1, blocks - 1)
        ids = shard[start : start + size]
        if ids.max() >= vocab_size:
            place = int((ids >= vocab_size).argmax())
            raise UserError(
                f"{shard.path} has token {ids[place]:,} (position {start + place:,}), beyond the vocabulary "
                f"of {vocab_size:,}; it was written with another tokenizer"
            )
