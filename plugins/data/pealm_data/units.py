"""The pieces of all parts with their tokens, in order; the next part is fetched meanwhile."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pealm_data.worker import Counts, Task, identity, is_done, write_file

DOWNLOAD = "pealm-download"  # a thread; nobody waits for one whose name starts like this when pealm ends


@dataclass(frozen=True)
class Unit:
    """Piece `piece` of part `part`. last: of its part."""

    part: int
    piece: int
    task: Task
    size: float
    last: bool


def path_of(work: Path, part: int, piece: int | None) -> Path:
    """Return how the names of a piece's files start; None: the part is its only piece."""
    return work / (f"{part:06d}" if piece is None else f"{part:06d}-{piece:06d}")


class Pieces:
    """The parts from one on, cut into pieces; those with a method `fetch` are fetched when needed, or one ahead."""

    def __init__(
        self,
        parts: Sequence[Any],
        start: tuple[int, int],
        work: Path,
        task: Callable[[Any, Path], Task],
        *,
        prefetch: bool,
        say: Callable[[str], None],
    ) -> None:
        """start: the first part and piece. task: makes the task of a piece and the start of its files' names."""
        self._parts, self._start, self._work, self._task = parts, start, work, task
        self._prefetch, self._say = prefetch, say
        self._next = start[0]
        self._coming: Future[list[Any]] | None = None
        self._earlier: dict[int, list[None]] = {}

    def remaining(self) -> bool:
        """Whether there is a next part."""
        return self._next < len(self._parts)

    def ready(self) -> bool:
        """Whether the next part can be had without waiting."""
        if self._fetched_earlier(self._next) or not hasattr(self._parts[self._next], "fetch"):
            return True
        return self._coming is not None and self._coming.done() and self._coming.exception() is None

    def next(self) -> list[Unit]:
        """Wait for the next part and return its units. Raises UserError."""
        index, part = self._next, self._parts[self._next]
        if pieces := self._fetched_earlier(index):
            pass
        elif hasattr(part, "fetch"):
            pieces = (self._coming or self._begin()).result()
            with write_file(self._list_of(index)) as file:
                file.write(json.dumps([identity(part), len(pieces)]).encode())
            self._say(f"{part.name}  {index + 1:,} of {len(self._parts):,}, {part.size / 1e6:,.1f} MB")
        else:
            pieces = [part]
        self._next, self._coming = index + 1, None
        if not pieces:
            self.release(index)
        numbers = range(len(pieces)) if hasattr(part, "fetch") else [None]
        paths = [path_of(self._work, index, number) for number in numbers]
        first = self._start[1] if index == self._start[0] else 0
        return [
            Unit(index, n, self._task(piece, path), part.size / len(pieces), n == len(pieces) - 1)
            for n, (piece, path) in enumerate(zip(pieces, paths, strict=True))
            if n >= first
        ]

    def fetch_ahead(self) -> None:
        """Start to fetch the next part, if parts are fetched ahead."""
        if self._prefetch and self._coming is None and self.remaining() and not self.ready():
            self._coming = self._begin()

    def release(self, index: int) -> None:
        """Remove what was fetched of a part."""
        if hasattr(self._parts[index], "remove"):
            self._parts[index].remove(self._work)

    def _begin(self) -> Future[list[Any]]:
        part, first = self._parts[self._next], self._next == self._start[0]
        if not first and hasattr(part, "remove"):
            self._say(f"{part.name}  is being fetched")
        return _background(lambda: list(part.fetch(self._work, quiet=not first)))

    def _fetched_earlier(self, index: int) -> list[None]:
        """Return as many pieces as a part has if the tokens of all of them are here, else none."""
        if index not in self._earlier:
            self._earlier[index] = []
            with suppress(OSError, ValueError, TypeError):
                known, count = json.loads(self._list_of(index).read_bytes())
                first = self._start[1] if index == self._start[0] else 0
                done = all(is_done(path_of(self._work, index, n)) for n in range(first, count))
                self._earlier[index] = [None] * count if done and known == identity(self._parts[index]) else []
        return self._earlier[index]

    def _list_of(self, part: int) -> Path:
        return self._work / f"{part:06d}.pieces"


def tokenized(
    pieces: Pieces, submit: Callable[[Task], "Future[dict[str, Counts]]"], ahead: int
) -> Iterator[tuple[Unit, dict[str, Counts]]]:
    """Yield each unit with its result, in order; `ahead` of them are in progress at a time. Raises UserError."""
    todo = deque[Unit]()
    running = deque[tuple[Unit, "Future[dict[str, Counts]]"]]()
    active = 0  # parts; with the one that is fetched ahead, two are here at a time
    while True:
        while len(running) < ahead:
            if not todo:
                # A next part that is late, or can't be had, must not keep finished pieces from the shards.
                if not pieces.remaining() or (running and not pieces.ready()):
                    break
                if not (units := pieces.next()):  # an empty file, or one whose tokens are in shards
                    continue
                todo.extend(units)
                active += 1
                if active == 1:
                    pieces.fetch_ahead()
            unit = todo.popleft()
            running.append((unit, submit(unit.task)))
        if not running:
            return
        unit, result = running.popleft()
        yield unit, result.result()
        if unit.last:
            pieces.release(unit.part)
            active -= 1
            if active == 1:
                pieces.fetch_ahead()


def _background(call: Callable[[], list[Any]]) -> Future[list[Any]]:
    """Run a call in a thread that does not keep the program from ending."""
    future: Future[list[Any]] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=DOWNLOAD, daemon=True).start()
    return future
