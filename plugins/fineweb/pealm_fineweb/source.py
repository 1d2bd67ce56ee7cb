"""Where the parquet files come from: the hub, one after another, or a folder on this machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pealm_core import UserError

REPO, FOLDER = "HuggingFaceFW/fineweb-edu", "sample/10BT"


@dataclass(frozen=True)
class SourceFile:
    """A parquet file. size in bytes; mark: the hub's hash of its content."""

    name: str
    size: int
    mark: str = ""


class LocalSource:
    """The parquet files of a folder, sorted by name."""

    downloads = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> list[SourceFile]:
        """Raises UserError where there is none."""
        paths = sorted(self.folder.rglob("*.parquet")) if self.folder.is_dir() else []
        if not paths:
            raise UserError(f"--source {self.folder}: no such folder, or no .parquet file in it")
        return [SourceFile(path.relative_to(self.folder).as_posix(), path.stat().st_size) for path in paths]

    def fetch(self, file: SourceFile, *, bar: bool) -> Path:
        """The file's path; it is here already, and no bar shows it."""
        return self.folder / file.name

    def release(self, path: Path) -> None:
        """The file is done with, and stays."""


class HubSource:
    """FineWeb-Edu's sample of 10 billion tokens on the Hugging Face hub."""

    downloads = True

    def __init__(self, work: Path) -> None:
        """work: the folder that a file is downloaded to."""
        self.work = work

    def files(self) -> list[SourceFile]:
        """Ask the hub. Raises UserError."""
        from huggingface_hub import HfApi, RepoFile

        with _one_line(f"the list of {REPO}'s files"):
            entries = list(HfApi().list_repo_tree(REPO, FOLDER, repo_type="dataset"))
        found = sorted(
            (entry for entry in entries if isinstance(entry, RepoFile) and entry.path.endswith(".parquet")),
            key=lambda entry: entry.path,
        )
        if not found:
            raise UserError(f"{REPO} has no parquet files in {FOLDER} any more; give local ones: --source DIR")
        return [SourceFile(entry.path, entry.size, entry.blob_id) for entry in found]

    def fetch(self, file: SourceFile, *, bar: bool) -> Path:
        """Download the file, or go on with its download. bar: show how far it is, on a terminal. Raises UserError."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        if not bar or not sys.stderr.isatty():
            disable_progress_bars()
        with _one_line(file.name):
            path = Path(hf_hub_download(REPO, file.name, repo_type="dataset", local_dir=self.work))
        if path.stat().st_size != file.size:
            path.unlink()
            raise UserError(f"{file.name} came with another size than the hub had announced; run the same again")
        return path

    def release(self, path: Path) -> None:
        """The file is done with: remove it."""
        path.unlink()


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """The client raises errors of many kinds, of other libraries, too: each is the user's network or hub."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"{what} can't be downloaded ({reason}); run the same again to go on, or give local files: --source DIR"
        ) from error
