"""The pieces of many parts: in order, the next part fetched before the last one ends, and a late one blocks nothing."""

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pealm_core import UserError
from pealm_data.units import Pieces, tokenized
from pealm_data.worker import Counts, Task, tokenize_piece


@dataclass(frozen=True)
class Piece:
    name: str
    size: int = 1

    def documents(self) -> Any:
        return iter([("train", self.name)])


@dataclass
class Part:
    """A part of some pieces; of those not fetched first, the gate lets `fetch` return."""

    name: str
    count: int
    fails: bool = False
    size: int = 10
    gate: threading.Event = field(default_factory=threading.Event)
    fetched: threading.Event = field(default_factory=threading.Event)
    here: ClassVar = set[str]()

    def fetch(self, work: Path, *, quiet: bool) -> list[Piece]:
        self.fetched.set()
        assert not quiet or self.gate.wait(60)
        if self.fails:
            raise UserError(f"{self.name} can't be had")
        Part.here.add(self.name)
        assert len(Part.here) <= 2, "more than two parts are here at a time"
        return [Piece(f"{self.name}{n}") for n in range(self.count)]

    def remove(self, work: Path) -> None:
        Part.here.discard(self.name)


class Letters:
    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return [*text.encode()]


class Pool:
    """Remembers the tasks that were submitted; runs each at once."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def __call__(self, task: Task) -> "Future[dict[str, Counts]]":
        self.tasks.append(task.piece.name if task.piece else "earlier")
        future: Future[dict[str, Counts]] = Future()
        future.set_result(tokenize_piece(task, Letters()))  # type: ignore[arg-type]
        return future


@pytest.fixture(autouse=True)
def _nothing_here() -> None:
    Part.here.clear()


def pieces_of(parts: list[Any], work: Path, start: tuple[int, int] = (0, 0), **options: Any) -> Pieces:
    said: list[str] = options.setdefault("said", [])
    prefetch = options.get("prefetch", True)
    return Pieces(
        parts,
        start,
        work,
        lambda p, path: Task(p, path, "uint16", {"train": None}),
        prefetch=prefetch,
        say=said.append,
    )


def test_pieces_come_in_order_and_parts_overlap(tmp_path: Path) -> None:
    parts, pool, said = [Part("a", 3), Part("b", 0), Part("c", 2)], Pool(), list[str]()
    for part in parts:
        part.gate.set()
    pieces, seen = pieces_of(parts, tmp_path, said=said), []
    for unit, counts in tokenized(pieces, pool, 3):
        seen.append((unit.part, unit.piece, unit.last))
        assert counts == {"train": Counts(2, 1)}
        if pieces._coming is not None:  # so that the order does not depend on a thread
            pieces._coming.exception(60)
    assert seen == [(0, 0, False), (0, 1, False), (0, 2, True), (2, 0, False), (2, 1, True)]
    assert pool.tasks == ["a0", "a1", "a2", "c0", "c1"]
    assert said == [
        "a  1 of 3, 0.0 MB",
        "b  is being fetched",
        "b  2 of 3, 0.0 MB",
        "c  is being fetched",
        "c  3 of 3, 0.0 MB",
    ]
    assert Part.here == set()


def test_a_part_whose_pieces_are_tokenized_is_not_fetched_again(tmp_path: Path) -> None:
    for part in (parts := [Part("a", 3), Part("b", 2)]):
        part.gate.set()
    units = tokenized(pieces_of(parts, tmp_path), Pool(), 1)
    for _ in range(4):  # up to the first piece of b
        next(units)
    again, pool = [Part("a", 3), Part("b", 2)], Pool()
    again[1].gate.set()
    seen = [unit.part for unit, _ in tokenized(pieces_of(again, tmp_path, (0, 1)), pool, 1)]
    assert seen == [0, 0, 1, 1] and pool.tasks == ["earlier", "earlier", "b0", "b1"]
    assert not again[0].fetched.is_set() and again[1].fetched.is_set()


@pytest.mark.parametrize("fails", [False, True])
def test_a_late_part_does_not_keep_finished_pieces(tmp_path: Path, fails: bool) -> None:
    parts = [Part("a", 3), Part("c", 2, fails)]
    units = tokenized(pieces_of(parts, tmp_path), Pool(), 8)
    assert [next(units)[0].piece for _ in range(3)] == [0, 1, 2]  # while the second part is on its way
    assert parts[1].fetched.wait(60)
    parts[1].gate.set()
    if fails:
        with pytest.raises(UserError, match="c can't be had"):
            next(units)
    else:
        assert len(list(units)) == 2


def test_with_a_limit_no_part_is_fetched_ahead(tmp_path: Path) -> None:
    parts = [Part("a", 3), Part("c", 2)]
    units = tokenized(pieces_of(parts, tmp_path, prefetch=False), Pool(), 8)
    for _ in range(3):
        next(units)
    assert not parts[1].fetched.is_set()
    parts[1].gate.set()
    assert len(list(units)) == 2


def test_local_parts_need_no_fetching(tmp_path: Path) -> None:
    parts, pool = [Piece("a"), Piece("b"), Piece("c")], Pool()
    assert [unit.part for unit, _ in tokenized(pieces_of(parts, tmp_path, (1, 0)), pool, 2)] == [1, 2]
    assert pool.tasks == ["b", "c"] and not list(tmp_path.glob("*.pieces"))
