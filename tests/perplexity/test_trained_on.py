"""Which files count as trained on."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pealm_perplexity.trained_on import training_files


def found(trained: Any, scored: Any) -> list[str]:
    """Return the names of the files that are announced, of an input trained on and one to score."""
    config = {"inputs": [{"weight": 2, "text": trained}]}
    return [Path(file).name for file in training_files(config, SimpleNamespace(config=SimpleNamespace(file=scored)))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.txt", "copy.txt", "a[1].txt", "in/deep/b.txt", "in/c.txt", "in/d.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("same" if name in ("a.txt", "copy.txt") else name)
    return tmp_path


def test_a_file_is_found_by_itself_and_as_a_copy(folder: Path) -> None:
    assert found(str(folder / "a.txt"), folder / "a.txt") == ["a.txt"]
    assert found(str(folder / "a.txt"), str(folder / "copy.txt")) == ["copy.txt"]
    (folder / "other.txt").write_text("else")  # as long and as old
    for name in ("a.txt", "other.txt"):
        os.utime(folder / name, (1, 1))
    assert found(str(folder / "a.txt"), folder / "other.txt") == []


def test_a_folder_and_a_pattern_name_all_of_their_files(folder: Path) -> None:
    assert found(str(folder / "in"), folder / "in/deep/b.txt") == ["b.txt"]
    assert found(str(folder / "in"), folder / "a.txt") == []
    assert found(str(folder / "**" / "*.txt"), folder / "in/deep/b.txt") == ["b.txt"]
    assert found(str(folder / "**" / "*.txt"), folder / "in/d.md") == []
    assert found(str(folder / "a[1].txt"), folder / "a[1].txt") == ["a[1].txt"]  # a name, not a pattern
    assert found(str(folder), folder) == ["a.txt", "a[1].txt", "copy.txt", "c.txt", "d.md", "b.txt"]


@pytest.mark.parametrize("nothing", [None, "", 3, "none.txt", "\0"])
def test_what_names_no_file_is_left_out(nothing: Any, folder: Path) -> None:
    assert found(nothing, folder / "a.txt") == found(str(folder / "a.txt"), nothing) == []
    assert training_files({}, object()) == []
