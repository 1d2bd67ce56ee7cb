"""The tokens of many parquet files, in order: the next file is fetched and begun while the last is still at work."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

from pealm_fineweb.config import DOWNLOAD
from pealm_fineweb.source import HubSource, LocalSource, SourceFile
from pealm_fineweb.worker import Piece, Tokens, pieces, tokenize


@dataclass(frozen=True)
class Opened:
    """File `place` of the source, fetched. todo: its pieces that are left to do; rows: how many it has in all."""

    place: int
    path: Path
    todo: list[Piece]
    rows: int


class Files:
    """The source's files from one on, fetched as they are asked for, or one ahead."""

    def __init__(
        self,
        source: HubSource | LocalSource,
        files: Sequence[SourceFile],
        place: int,
        row: int,
        *,
        prefetch: bool,
        say: Callable[[str], None],
    ) -> None:
        """row: where to begin in file `place`, the first one. say: told of a download that no bar shows."""
        self._source, self._files, self._prefetch, self._say = source, files, prefetch, say
        self._place, self._first, self._row = place, place, row
        self._coming: Future[Opened] | None = None

    def left(self) -> bool:
        """Whether there is a next one."""
        return self._place < len(self._files)

    def ready(self) -> bool:
        """Whether the next one is here."""
        return self._coming is not None and self._coming.done() and self._coming.exception() is None

    def next(self) -> Opened:
        """Wait for the next one. Raises UserError."""
        opened = (self._coming or self._begin()).result()
        self._place, self._coming = self._place + 1, None
        return opened

    def fetch_ahead(self) -> None:
        """Have the next one fetched, where files are fetched ahead."""
        if self._prefetch and self._coming is None and self.left():
            self._coming = self._begin()

    def _begin(self) -> Future[Opened]:
        place, file, first = self._place, self._files[self._place], self._place == self._first
        if self._source.downloads and not first:
            self._say(f"{file.name}  is being downloaded")

        def fetch() -> Opened:
            path = self._source.fetch(file, bar=first)
            return Opened(place, path, *pieces(path, self._row if first else 0))

        return _background(fetch)


def tokens_of(
    files: Files, pool: Executor, ahead: int, begin: Callable[[Opened], None]
) -> Iterator[tuple[Opened, Piece | None, Tokens | None]]:
    """Each piece with its tokens, in order, `ahead` of them under way at once; None and None where a file ends.

    begin: told of every file before its first piece is under way. Raises UserError, BrokenProcessPool.
    """
    todo: deque[tuple[Opened, Piece | None]] = deque()
    under_way: deque[tuple[Opened, Piece | None, Future[Tokens] | None]] = deque()
    at_work = 0  # files; with one that is fetched, two are here at once
    while True:
        while len(under_way) < ahead:
            if not todo:
                # A next file that is late, or can't be had, must not keep what is done from the disk.
                if not files.left() or (under_way and not files.ready()):
                    break
                opened = files.next()
                begin(opened)
                at_work += 1
                if at_work == 1:
                    files.fetch_ahead()
                todo.extend((opened, piece) for piece in [*opened.todo, None])
            opened, piece = todo.popleft()
            under_way.append((opened, piece, None if piece is None else pool.submit(tokenize, piece)))
        if not under_way:
            return
        opened, piece, result = under_way.popleft()
        yield opened, piece, None if result is None else result.result()
        at_work -= piece is None
        if at_work == 1:
            files.fetch_ahead()


def _background(call: Callable[[], Opened]) -> Future[Opened]:
    """What call returns, from a thread that doesn't keep the program from ending."""
    future: Future[Opened] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=DOWNLOAD, daemon=True).start()
    return future
