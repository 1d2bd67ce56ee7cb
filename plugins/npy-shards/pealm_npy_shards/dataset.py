"""A folder of token shards: its files in order, and a check of their ids against a vocabulary."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pealm_core import TokenFile, UserError
from pealm_npy_shards.config import FINEWEB, NpyShardsConfig
from pealm_npy_shards.shard import SUFFIXES, Shard, mask_of, offsets_of, read_header

META = "meta.json"
INCOMPLETE = ".tokenize"  # a folder of `pealm tokenize`, removed at its end
SCAN_TOKENS, SCAN_BLOCK = 2**22, 2**16  # tokens of a shard that are looked at, at most, and in a row
SCAN_ALL = 2**27  # tokens of all shards


@dataclass(frozen=True)
class _Part:
    """The tokens start to stop of a shard."""

    shard: Shard
    start: int
    stop: int


class NpyShards:
    """The files that have "train" or "val" as a word of their names, in the order of their names.

    If no file has, the last tokens of all of them are for validation.
    """

    def __init__(self, config: NpyShardsConfig | None = None) -> None:
        self.config = config or NpyShardsConfig()
        self.path = self.config.path
        self._parts: dict[str, list[_Part]] = {}
        self._opened: dict[str, list[TokenFile]] = {}

    def shards(self, split: str) -> list[TokenFile]:
        """Return the shards of "train" or "val", checked once. Raises UserError with the name of a wrong file."""
        if split not in self._opened:
            self._opened[split] = [part.shard.open(part.start, part.stop) for part in self._split(split)]
        return self._opened[split]

    def masks(self, split: str) -> list[TokenFile] | None:
        """Return the masks beside the shards: a byte for each token, 0 where it is not learned.

        None if no shard has one. Raises UserError if only some have.
        """
        parts = self._split(split)
        paths = [mask_of(part.shard.path) for part in parts]
        if not any(path.exists() for path in paths):
            return None
        for path, part in zip(paths, parts, strict=True):
            TokenFile(path, "u1", count=part.shard.count)  # raises an error if it is too short
        return [
            Shard(path, 0, part.shard.count, np.dtype("u1")).open(part.start, part.stop)
            for path, part in zip(paths, parts, strict=True)
        ]

    def offsets(self, split: str) -> list[NDArray[np.int64]] | None:
        """Return where documents start in each shard; None if it is unknown for one of them."""
        several = []
        for part in self._split(split):
            if (places := offsets_of(part.shard.path)) is None:
                return None
            several.append(places[(places >= part.start) & (places < part.stop)] - part.start)
        return several

    def _split(self, split: str) -> list[_Part]:
        if split not in self._parts:
            files = self._files()
            if not any({"train", "val"} & _words(path) for path in files) and files:
                self._parts = self._cut(files)
            else:
                self._parts[split] = [
                    _Part(shard, 0, shard.count)
                    for shard in (read_header(path, self.config.dtype) for path in self._named(files, split))
                ]
        return self._parts[split]

    def _cut(self, files: list[Path]) -> dict[str, list[_Part]]:
        """Return both splits of files that don't say which one they are of."""
        shards = [read_header(path, self.config.dtype) for path in files]
        border = int(sum(shard.count for shard in shards) * (1 - self.config.val_fraction))
        parts: dict[str, list[_Part]] = {"train": [], "val": []}
        for shard in shards:
            middle = min(max(border, 0), shard.count)
            parts["train"] += [_Part(shard, 0, middle)] if middle else []
            parts["val"] += [_Part(shard, middle, shard.count)] if middle < shard.count else []
            border -= shard.count
        return parts

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

        The more shards there are, the fewer blocks of each. Raises UserError with the file, the id and its position.
        """
        shards = [shard for split in ("train", "val") for shard in self.shards(split)]
        for shard in shards:
            _check(shard, vocab_size, min(SCAN_TOKENS, max(2 * SCAN_BLOCK, SCAN_ALL // len(shards))))

    def _files(self) -> list[Path]:
        option = f"--input.npy-shards {self.path}"
        if (self.path / INCOMPLETE).exists():
            raise UserError(f"{option} is incomplete: the same `pealm tokenize` resumes")
        try:
            return sorted(path for path in self.path.iterdir() if path.suffix in SUFFIXES)
        except FileNotFoundError:
            hint = "; `python scripts/fineweb.py` makes it" if self.path == FINEWEB else ""
            raise UserError(f"{option}: no such folder{hint}") from None
        except OSError as error:
            raise UserError(f"{option}: {error.strerror}; give a folder of shards") from error

    def _named(self, files: list[Path], split: str) -> list[Path]:
        paths = [path for path in files if split in _words(path)]
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


def _check(shard: TokenFile, vocab_size: int, tokens: int) -> None:
    blocks = 1 if len(shard) <= tokens else tokens // SCAN_BLOCK
    size = len(shard) if blocks == 1 else SCAN_BLOCK
    for number in range(blocks):
        start = number * (len(shard) - size) // max(1, blocks - 1)
        ids = shard[start : start + size]
        if ids.max() >= vocab_size or ids.min() < 0:  # Megatron's are signed
            place = int(((ids >= vocab_size) | (ids < 0)).argmax())
            raise UserError(
                f"{shard.path} has token {ids[place]:,} (position {start + place:,}), beyond the vocabulary "
                f"of {vocab_size:,}; it was written with another tokenizer"
            )
