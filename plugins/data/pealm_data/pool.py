"""Worker processes, each of which gets the function once; or this process alone."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from pealm_core import PealmError, available_cpus

Function = Callable[[Any], Any]
WORTH = 2**22  # bytes of source that take a worker longer than its start


def map_tasks(function: Function, tasks: Sequence[Any], size: int) -> Iterator[Any]:
    """Yield function(task) of each task, in order. Raises what it raises, PealmError if a worker process dies.

    size: bytes of source. Unless they are worth several processes, and all can be pickled, this one does it.
    """
    count = min(available_cpus(), size // WORTH, len(tasks))
    if count < 2 or multiprocessing.current_process().daemon or pickling_error(function, tasks[0]):
        yield from map(function, tasks)
        return
    with workers(function, count) as submit:
        for future in [submit(task) for task in tasks]:
            yield future.result()


@contextmanager
def workers(function: Function, count: int, place: str = "") -> "Iterator[Callable[[Any], Future[Any]]]":
    """Give what runs function(task) in one of `count` processes, or at once in this one. Raises PealmError.

    place: the start of the message, if a process dies of a command that resumes.
    """
    if count == 1:
        yield lambda task: _completed(function(task))
        return
    with TemporaryDirectory(prefix="pealm-workers-") as folder:
        # Not an argument of the processes: one would start only when the one before has read a large vocabulary.
        path = Path(folder, "function")
        with _as_workers_see_it():
            path.write_bytes(pickle.dumps(function))
        pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _start, (path,))

        def submit(task: Any) -> "Future[Any]":
            with _as_workers_see_it():  # it may start one
                return pool.submit(_run, task)

        try:
            yield submit
        except BrokenProcessPool as error:
            advice = "; run the same command with fewer --workers" if place else ""
            raise PealmError(f"{place}a worker process died, perhaps out of memory{advice}") from error
        finally:
            pool.shutdown(cancel_futures=True)


def pickling_error(*things: Any) -> str:
    """Return why these can't be sent to a worker process; "": they can."""
    try:
        with _as_workers_see_it():
            pickle.dumps(things)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@contextmanager
def _as_workers_see_it() -> Iterator[None]:
    """Hide the main module, which a worker would run again, and add the folders of local plugins to the path."""
    main, path = sys.modules["__main__"], sys.path
    files = filter(None, os.environ.get("PEALM_PLUGINS", "").split(os.pathsep))
    sys.modules["__main__"], sys.path = ModuleType("__main__"), [*path, *(str(Path(file).parent) for file in files)]
    try:
        yield
    finally:
        sys.modules["__main__"], sys.path = main, path


def _completed(result: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(result)
    return future


_function: Function  # of this worker process


def _start(path: Path) -> None:
    """Set up a worker process, which ignores Ctrl-C and ends when its parent does."""
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _function = pickle.loads(path.read_bytes())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(task: Any) -> Any:
    return _function(task)
