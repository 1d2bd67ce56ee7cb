"""One thread for all models, in which requests take turns.

Everything that runs a model does so in this thread: a request's work is an iterator, and after each `next` it waits
for the others. So a short request never waits for a long one, and no model is used by two threads. The texts of a
model grow together: the turn of one computes the next token of all. New work comes first: at the end of a round, all
that has arrived gets its first two turns.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from pealm_core import Sampling
from pealm_serve.errors import ApiError
from pealm_serve.generation import Piece
from pealm_serve.memory import return_free
from pealm_serve.models import Loaded

T = TypeVar("T")
IDLE = 1.0  # seconds without work, after which free memory is returned to the system


class Engine:
    """The models by name, and the thread that runs them. `start` and `stop` it, or use it in a `with` statement.

    concurrent: the most texts that are generated at the same time. stopping: set when the server was asked to end; an
    endless response (server-sent events) then returns.
    """

    def __init__(self, models: Mapping[str, Loaded], concurrent: int = 64) -> None:
        self.models, self.free = dict(models), concurrent
        self.stopping = asyncio.Event()
        self.active = 0  # iterators that are not finished yet
        self._ready: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="serve-model", daemon=True)

    def __enter__(self) -> "Engine":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ready.put(None)
        self._thread.join()

    @contextmanager
    def seats(self, texts: int) -> Iterator[None]:
        """Count texts that are generated in the body. Raises ApiError (429) if there would be too many."""
        if texts > self.free:
            message = f"the server is busy: {texts} more texts at the same time are too many; try again later"
            raise ApiError(message, 429, code="server_busy", headers={"Retry-After": "1"})
        self.free -= texts
        try:
            yield
        finally:
            self.free += texts

    async def run(self, name: str, function: Callable[..., T], *args: Any) -> T:
        """Return function(lm, *args) of a model, called in the model thread between two tokens.

        Others wait for it: it should take about as long as a token. Its exceptions are raised here. If the caller is
        cancelled before it starts, it is not called. Raises KeyError for an unknown name.
        """
        lm = self.models[name].lm

        def once() -> Iterator[T]:
            yield function(lm, *args)

        async with aclosing(self.turns(once())) as results:
            async for result in results:
                return result
        raise AssertionError("a generator with one yield was empty")

    async def stream(
        self,
        name: str,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        ends: Collection[int] | None = None,
        top: int = 0,
    ) -> AsyncGenerator[Piece, None]:
        """Yield the continuation of token ids, a Piece for each token of each of `sampling.num_samples` rows.

        ends: the ids that end a text, by default end-of-text. top: how many of the likeliest tokens a piece lists.
        Closing the iterator frees the work: `async with aclosing(engine.stream(...)) as pieces`.
        """
        work = self.models[name].texts.generate(ids, sampling, ends=ends, top=top)
        async with aclosing(self.turns(work)) as steps:
            async for step in steps:
                for piece in step:
                    yield piece

    async def turns(self, work: Iterator[T]) -> AsyncGenerator[T, None]:
        """Yield what an iterator yields, whose every `next` is called in the model thread, in turn with others.

        When the caller closes this or is cancelled, the iterator is closed at its next turn, in that thread.
        """
        loop, items = asyncio.get_running_loop(), asyncio.Queue[tuple[bool, Any]]()

        def deliver(more: bool, item: Any) -> None:
            with suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(items.put_nowait, (more, item))

        task = _Work(work, deliver)
        self.active += 1
        self._ready.put(task)
        try:
            while True:
                more, item = await items.get()
                if more:
                    yield item
                elif item is None:
                    return
                else:
                    raise item
        finally:
            task.abandoned = True
            self.active -= 1

    def _loop(self) -> None:
        works: list[_Work] | None = []
        while works is not None:
            works = self._round(works)

    def _round(self, works: list["_Work"]) -> list["_Work"] | None:
        """Give each work a turn, and new work two; return those that have more, or None at the end."""
        arrived = [] if works else [self._wait()]
        while not self._ready.empty():
            arrived.append(self._ready.get())
        new = [work for work in arrived if work is not None]
        if len(new) < len(arrived):
            return None
        started = [work for work in new if work.turn()]
        return [work for work in (*started, *works) if work.turn()]

    def _wait(self) -> "_Work | None":
        try:
            return self._ready.get(timeout=IDLE)
        except Empty:
            return_free()
            return self._ready.get()


class _Work:
    """An iterator, and where its items are delivered: (True, item), at the end (False, None or an exception)."""

    def __init__(self, items: Iterator[Any], deliver: Callable[[bool, Any], None]) -> None:
        self.items, self.deliver, self.abandoned = items, deliver, False

    def turn(self) -> bool:
        """Deliver the next item; return whether there may be more."""
        if self.abandoned:
            if close := getattr(self.items, "close", None):
                close()
            return False
        try:
            item = next(self.items)
        except StopIteration:
            self.deliver(False, None)
        except BaseException as error:
            self.deliver(False, error)
        else:
            self.deliver(True, item)
            return True
        return False
