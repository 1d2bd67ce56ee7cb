"""The stream of many files: in order, the next file under way before the last one ends, and a late one in nobody's way."""

import threading
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pealm_core import UserError
from pealm_fineweb.source import LocalSource, SourceFile
from pealm_fineweb.stream import Files, tokens_of
from pealm_fineweb.worker import Tokens

ROWS = (2500, 0, 1200)  # three pieces, none, two


class Pool(Executor):
    """Remembers what it is given; nothing is tokenized."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def submit(self, fn: Any, /, *args: Any, **_: Any) -> "Future[Any]":
        self.given.append(f"{args[0].path.stem}:{args[0].row}")
        future: Future[Any] = Future()
        future.set_result(Tokens(np.empty(0, np.uint16), np.empty(0, np.int64)))
        return future


class Slow(LocalSource):
    """A hub: what comes after the first file waits for the gate; `fails` can't be had."""

    downloads = True
    fails = ""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate, self.fetched = threading.Event(), threading.Event()

    def fetch(self, file: SourceFile, *, bar: bool) -> Path:
        if not bar:
            self.fetched.set()
            assert self.gate.wait(60)
            if file.name == self.fails:
                raise UserError(f"{file.name} can't be had")
        return super().fetch(file, bar=bar)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in zip("abc", ROWS, strict=True):
        pq.write_table(pa.table({"text": pa.array(["x"] * count, pa.string())}), tmp_path / f"{name}.parquet")
    return tmp_path


def test_every_piece_comes_in_order_and_files_overlap(folder: Path) -> None:
    source, pool, begun, said = LocalSource(folder), Pool(), list[str](), list[str]()
    files = Files(source, source.files(), 0, 0, prefetch=True, say=said.append)
    stream = tokens_of(files, pool, 3, lambda file: begun.append(file.path.stem))
    seen = []
    for file, piece, tokens in stream:
        assert (piece is None) == (tokens is None)
        seen.append(f"{file.path.stem}:{'end' if piece is None else piece.row}")
        if files._coming is not None:  # so that what is under way does not depend on a thread's luck
            files._coming.exception(60)
        if seen[-1] == "a:2000":
            assert begun == ["a", "b"]
    assert seen == ["a:0", "a:1000", "a:2000", "a:end", "b:end", "c:0", "c:1000", "c:end"]
    assert begun == ["a", "b", "c"] and said == []
    assert pool.given == ["a:0", "a:1000", "a:2000", "c:0", "c:1000"]


def test_it_begins_at_a_row_of_a_file(folder: Path) -> None:
    source, pool = LocalSource(folder), Pool()
    files = Files(source, source.files(), 0, 1500, prefetch=True, say=print)
    list(tokens_of(files, pool, 8, lambda file: None))
    assert pool.given == ["a:1500", "a:2000", "c:0", "c:1000"]


@pytest.mark.parametrize("fails", ["", "c.parquet"])
def test_a_late_file_does_not_keep_what_is_done(folder: Path, fails: str) -> None:
    (folder / "b.parquet").unlink()
    source, pool, said = Slow(folder), Pool(), list[str]()
    source.fails = fails
    files = Files(source, source.files(), 0, 0, prefetch=True, say=said.append)
    stream = tokens_of(files, pool, 8, lambda file: None)
    seen = [piece is None for _, piece, _ in (next(stream) for _ in range(4))]
    assert seen == [False, False, False, True]  # the whole first file, while the second one is on its way
    assert source.fetched.wait(60) and said == ["c.parquet  is being downloaded"]
    source.gate.set()
    if fails:
        with pytest.raises(UserError, match=r"c.parquet can't be had"):
            next(stream)
    else:
        assert len(list(stream)) == 3


def test_with_a_limit_no_file_is_fetched_ahead(folder: Path) -> None:
    source, pool = Slow(folder), Pool()
    files = Files(source, source.files(), 0, 0, prefetch=False, say=print)
    stream = tokens_of(files, pool, 8, lambda file: None)
    for _ in range(4):
        next(stream)
    assert not source.fetched.is_set()
    source.gate.set()
    assert len(list(stream)) == 4


def test_a_download_that_failed_early_is_told_after_what_is_done(folder: Path) -> None:
    (folder / "b.parquet").unlink()
    source, pool = Slow(folder), Pool()
    source.fails = "c.parquet"
    source.gate.set()
    files = Files(source, source.files(), 0, 0, prefetch=True, say=lambda line: None)
    stream = tokens_of(files, pool, 8, lambda file: None)
    assert next(stream)[1] is not None
    assert files._coming is not None and files._coming.exception(60)
    assert [piece is None for _, piece, _ in (next(stream) for _ in range(3))] == [False, False, True]
    with pytest.raises(UserError, match=r"c.parquet can't be had"):
        next(stream)


def test_no_more_than_two_files_are_here_at_once(folder: Path) -> None:
    here = set[str]()

    class Counting(LocalSource):
        def fetch(self, file: SourceFile, *, bar: bool) -> Path:
            here.add(file.name)
            assert len(here) <= 2
            return super().fetch(file, bar=bar)

    source, pool = Counting(folder), Pool()
    files = Files(source, source.files(), 0, 0, prefetch=True, say=print)
    for file, piece, _ in tokens_of(files, pool, 8, lambda file: None):
        if files._coming is not None:
            files._coming.exception(60)
        if piece is None:
            here.remove(file.path.name)
