"""The worker processes, which get the tokenizer once; or this process alone."""

import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pealm_core import PealmError, Tokenizer
from pealm_data.worker import Counts, Task, in_worker, start, tokenize_piece

Submit = Callable[[Task], "Future[dict[str, Counts]]"]


@contextmanager
def workers(
    out: Path, count: int, tokenizer: Tokenizer, parts: Sequence[Any], report: Callable[[int], None]
) -> Iterator[Submit]:
    """Give a function that tokenizes a piece in one of `count` processes, or at once in this one. Raises PealmError.

    report: called with the number of tokens so far of the current piece, if there is only this process.
    """
    if count == 1:
        yield lambda task: _completed(tokenize_piece(task, tokenizer, report))
        return
    try:
        pickle.dumps((tokenizer, parts[:1]))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise PealmError(
            f"this input or tokenizer can't be used by several workers ({reason}); --workers 1"
        ) from error
    folders = [str(Path(name).parent) for name in os.environ.get("PEALM_PLUGINS", "").split(os.pathsep) if name]
    sys.path += folders  # workers start with this path, so that they can import local plugins
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=start, initargs=(tokenizer,))
    try:
        yield lambda task: pool.submit(in_worker, task)
    except BrokenProcessPool as error:
        raise PealmError(
            f"{out}: a worker process died, perhaps out of memory; run the same command with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        del sys.path[len(sys.path) - len(folders) :]


def _completed(counts: dict[str, Counts]) -> "Future[dict[str, Counts]]":
    future: Future[dict[str, Counts]] = Future()
    future.set_result(counts)
    return future
