"""Which files of a text a model was trained on."""

import filecmp
import glob
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def training_files(config: Mapping[str, Any], dataset: Any) -> list[str]:
    """Return the files of a dataset that are among those of a checkpoint's inputs, also as copies.

    Files that are no longer there can't be compared.
    """
    tables = [{key: v for key, v in table.items() if key != "weight"} for table in config.get("inputs", ())]
    trained = [path for table in tables for path in _files(next(iter(table.values()), None))]
    own = [path for value in vars(getattr(dataset, "config", None) or object).values() for path in _files(value)]
    return sorted({str(path) for path in own if any(_same(path, other) for other in trained)})


def _files(value: Any) -> Iterator[Path]:
    """Yield the files that a setting names: a file, those of a folder, or of a pattern."""
    if not isinstance(value, str | Path) or not str(value):
        return
    with suppress(OSError, ValueError):
        names = [str(value)] if Path(value).exists() else glob.iglob(str(value), recursive=True)  # noqa: PTH207
        for path in map(Path, names):
            yield from (p for p in (sorted(path.rglob("*")) if path.is_dir() else [path]) if p.is_file())


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other) or filecmp.cmp(path, other, shallow=False)
    except OSError:
        return False
