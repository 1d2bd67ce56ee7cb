"""Text from files: the front for training, the tail for validation, as nanoGPT splits."""

from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path

from pealm_core import UserError
from pealm_text.config import TextConfig

SUFFIXES = (".txt", ".md")


class TextDataset:
    """The files of a path, a folder or a glob as one text each; the last val_fraction of all of it is "val"."""

    def __init__(self, config: TextConfig) -> None:
        self.config = config

    def documents(self, split: str) -> Iterator[str]:
        """The files of a split in order of their names; the file in which the split falls is cut there."""
        texts = [read_text(path) for path in self.files()]
        left = int(sum(map(len, texts)) * (1 - self.config.val_fraction))
        for text in texts:
            part = text[:left] if split == "train" else text[left:]
            left = max(0, left - len(text))
            if part:
                yield part

    def whole(self) -> Iterator[str]:
        """Every file's text."""
        return map(read_text, self.files())

    def files(self) -> list[Path]:
        """The files that the path means. Raises UserError where there is none."""
        path, option = Path(self.config.path), f"--input.text {self.config.path}"
        if path.is_file():
            return [path]
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in SUFFIXES)
            if not found:
                raise UserError(f"{option}: the folder has no {' or '.join(SUFFIXES)} file")
            return found
        if has_magic(self.config.path):
            found = sorted(Path(name) for name in glob(self.config.path, recursive=True) if Path(name).is_file())  # noqa: PTH207 (takes absolute ones)
            if not found:
                raise UserError(f"{option}: no file matches")
            return found
        raise UserError(f"{option}: no such file or folder")


def read_text(path: Path) -> str:
    """A UTF-8 file's text, line ends as they are. Raises UserError for one that is empty, binary or not UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    if not data:
        raise UserError(f"{path} is empty")
    if b"\0" in data[:65536]:
        raise UserError(f"{path} is no text: it has zero bytes (position {data.index(0):,})")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8: byte {data[error.start]:#04x} in line {line:,}; convert it first"
        ) from error
