"""Text from files: the first part for training, the rest for validation, as in nanoGPT."""

import stat
from collections.abc import Iterator
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path

from pealm_core import UserError
from pealm_text.config import TextConfig

SUFFIXES = (".txt", ".md")


class TextDataset:
    """The text files of a path, a folder or a glob, a document each; "val" is the last val_fraction of all text."""

    def __init__(self, config: TextConfig) -> None:
        self.config = config

    def documents(self, split: str) -> Iterator[str]:
        """Yield the documents of a split in the order of their names; the file at the border is cut in two."""
        remaining = int(self._characters * (1 - self.config.val_fraction))  # of the training split
        for text in self.whole():
            part = text[:remaining] if split == "train" else text[remaining:]
            remaining = max(0, remaining - len(text))
            del text  # its memory is needed for tokenizing the part
            if part:
                yield part

    @cached_property
    def _characters(self) -> int:
        return sum(map(len, self.whole()))

    def whole(self) -> Iterator[str]:
        """Yield every file's text; one at a time is in memory."""
        return map(read_text, self.files())

    def files(self) -> list[Path]:
        """Return the files that the path means. Raises UserError if there are none."""
        path, option = Path(self.config.path), f"--input.text {self.config.path}"
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and _is_file(file))
            if not files:
                raise UserError(f"{option}: the folder has no {' or '.join(SUFFIXES)} file")
            return files
        if path.exists():
            return [path]
        if has_magic(self.config.path):
            files = sorted(Path(name) for name in glob(self.config.path, recursive=True) if _is_file(Path(name)))  # noqa: PTH207 (takes absolute ones)
            if not files:
                raise UserError(f"{option}: no file matches")
            return files
        raise UserError(f"{option}: no such file or folder")


def _is_file(path: Path) -> bool:
    return path.exists() and not path.is_dir()  # `read_text` refuses a pipe, a socket or a device


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text with its line ends. Raises UserError if it is empty, binary or not UTF-8."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a FIFO would wait for a writer
            raise UserError(f"{path} is not a regular file")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    except MemoryError as error:
        size = f"{path.stat().st_size / 1e9:,.1f} GB"
        raise UserError(f"{path} does not fit into memory ({size}); split it into several files") from error
    if not data:
        raise UserError(f"{path} is empty")
    if b"\0" in data[:65536]:
        raise UserError(f"{path} is not a text file: it has a zero byte at position {data.index(0):,}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8: byte {data[error.start]:#04x} in line {line:,}; convert it first"
        ) from error
