"""Files of token ids: slices, a bounded number of open files, and files that change while in use."""

import os
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from pealm_core.contract.errors import UserError
from pealm_core.data import token_file
from pealm_core.data.token_file import MAX_OPEN, TokenFile


def written(path: Path, first: int = 0, count: int = 100) -> Path:
    np.arange(first, first + count, dtype="<u2").tofile(path)
    return path


def opened(folder: Path, count: int) -> list[TokenFile]:
    return [TokenFile(written(folder / f"{i}.bin", i), "<u2") for i in range(count)]


@pytest.mark.parametrize("start", [None, 0, 3, 97, 100, 200, -1, -200])
@pytest.mark.parametrize("stop", [None, 0, 3, 98, 200, -2])
@pytest.mark.parametrize("step", [None, 1, 2, 7, 300, -1, -3])
def test_slices_are_those_of_numpy(tmp_path: Path, start: int | None, stop: int | None, step: int | None) -> None:
    ids = TokenFile(written(tmp_path / "a.bin"), "<u2")[start:stop:step]
    assert np.array_equal(ids, np.arange(100)[start:stop:step]) and ids.dtype == np.uint16


def test_only_slices_index_tokens(tmp_path: Path) -> None:
    file = TokenFile(written(tmp_path / "a.bin"), "<u2")
    with pytest.raises(TypeError, match=r"indexed by a slice, tokens\[a:b\], not by 3"):
        file[3]  # type: ignore[index]
    with pytest.raises(ValueError, match="step cannot be zero"):
        file[::0]


def test_many_shards_need_few_descriptors(tmp_path: Path) -> None:
    opened(tmp_path, 350)
    code = f"""
import resource
from pathlib import Path
import pealm_core.data.windows as w  # torch opens files of its own
from pealm_core.data.token_stream import Split
from pealm_core.data.token_file import TokenFile
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
shards = [TokenFile(Path({str(tmp_path)!r}, f"{{i}}.bin"), "<u2") for i in range(350)]
for turn in range(2):
    assert [int(shard[turn : turn + 1][0]) for shard in shards] == [i + turn for i in range(350)]
assert w.Windows(Split(shards), 10).rows(range(500))["idx"].shape == (500, 10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_open_file_is_read_as_it_was(tmp_path: Path) -> None:
    first, second = opened(tmp_path, 2)
    first.path.unlink()
    written(tmp_path / "new", 500).rename(second.path)
    assert (first[:2].tolist(), second[:2].tolist()) == ([0, 1], [1, 2])


def test_a_file_that_changed_before_it_is_reopened_is_named(tmp_path: Path) -> None:
    first, second, third, *others = opened(tmp_path, MAX_OPEN + 3)
    first.path.unlink()
    written(tmp_path / "new", 500).rename(second.path)
    os.utime(second.path, (1, 1))  # a clock tick may be long
    with third.path.open("ab") as file:
        file.write(b"\0\0")
    with pytest.raises(UserError, match=r"0.bin can't be read: No such file"):
        first[:1]
    for shard in (second, third):
        with pytest.raises(UserError, match=r"\d.bin was changed while in use; put it back and resume"):
            shard[:1]
    assert [int(shard[:1][0]) for shard in others] == list(range(3, MAX_OPEN + 3))


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    file = TokenFile(written(tmp_path / "a.bin"), "<u2")
    os.truncate(file.path, 100)
    assert file[:50].tolist() == [*range(50)]
    with pytest.raises(UserError, match=r"a.bin has become shorter while in use"):
        file[40:60]
    with pytest.raises(UserError, match=r"a.bin is truncated: 50 of 100 tokens"):
        TokenFile(file.path, "<u2", count=100)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(UserError, match="is not a regular file"):
            TokenFile(path, "<u2")


@pytest.mark.parametrize("pread", [True, False])
def test_threads_read_the_files_they_ask_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pread: bool) -> None:
    if not pread:  # Windows
        monkeypatch.delattr(os, "pread")
    monkeypatch.setattr(token_file, "_open", lru_cache(2)(token_file._open.__wrapped__))
    shards, wrong = opened(tmp_path, 8), []

    def read(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, 8, 500):
            at = (seed + int(i)) % 90
            if shards[i][at : at + 5].tolist() != [*range(i + at, i + at + 5)]:
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
