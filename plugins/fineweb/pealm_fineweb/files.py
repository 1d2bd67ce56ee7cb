"""FineWeb-Edu's parquet files: on the Hugging Face hub, or in a folder on this machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pealm_core import UserError
from pealm_fineweb.rows import Piece, pieces

REPO = "HuggingFaceFW/fineweb-edu"
REVISION = "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9"


@dataclass(frozen=True)
class LocalFile:
    """A parquet file in a folder, as a part for `pealm tokenize`. version: when it was changed."""

    name: str
    size: int
    version: int | str
    folder: Path
    val_fraction: float | None  # None: all documents are of the split "train"

    def fetch(self, work: Path | None, *, quiet: bool) -> list[Piece]:
        """Return the file's pieces. Raises UserError."""
        return pieces(self.folder / self.name, self.version, self.val_fraction)


@dataclass(frozen=True)
class HubFile:
    """A parquet file of a sample on the hub, as a part for `pealm tokenize`. version: a hash of its content."""

    name: str
    size: int
    version: str
    val_fraction: float | None

    def fetch(self, work: Path | None, *, quiet: bool) -> list[Piece]:
        """Download the file, or resume its download, and return its pieces. Raises UserError.

        work: where to; None: the hub's cache. quiet: no progress bar.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        if quiet or not sys.stderr.isatty():
            disable_progress_bars()
        with _one_line(self.name):
            path = Path(hf_hub_download(REPO, self.name, repo_type="dataset", revision=REVISION, local_dir=work))
        if path.stat().st_size != self.size:
            path.unlink()
            raise UserError(f"{self.name} has another size than the hub announced; run the same command again")
        return pieces(path, self.version, self.val_fraction)

    def remove(self, work: Path) -> None:
        """Remove what was downloaded."""
        (work / self.name).unlink(missing_ok=True)


def local_files(folder: Path, val_fraction: float | None) -> list[LocalFile]:
    """Return the parquet files of a folder, sorted by name. Raises UserError if there are none."""
    paths = sorted(folder.rglob("*.parquet")) if folder.is_dir() else []
    if not paths:
        raise UserError(f"--source {folder}: no such folder, or no .parquet file in it")
    return [
        LocalFile(path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns, folder, val_fraction)
        for path, status in ((path, path.stat()) for path in paths)
    ]


def hub_files(sample: str, val_fraction: float | None) -> list[HubFile]:
    """Return the files of a sample, sorted by name. Raises UserError."""
    from huggingface_hub import HfApi, RepoFile

    folder = sample.replace("-", "/", 1)
    with _one_line(f"the list of {REPO}'s files"):
        entries = list(HfApi().list_repo_tree(REPO, folder, repo_type="dataset", revision=REVISION))
    files = [entry for entry in entries if isinstance(entry, RepoFile) and entry.path.endswith(".parquet")]
    if not files:
        raise UserError(f"{REPO} has no parquet files in {folder}; give local ones: --source DIR")
    return [HubFile(file.path, file.size, file.blob_id, val_fraction) for file in sorted(files, key=lambda f: f.path)]


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn an exception of the client, which raises many kinds, into a UserError of one line."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"{what} can't be downloaded ({reason}); run the same command again to resume, or give local files: "
            f"--source DIR"
        ) from error
