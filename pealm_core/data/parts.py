"""Independent parts of a dataset: hashed and tokenized in worker processes, with the results in order.

Workers import this module, which needs no torch.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from pealm_core.contract.errors import PealmError
from pealm_core.contract.protocols import Tokenizer, has
from pealm_core.data.documents import documents, encode_document, segments
from pealm_core.hardware.launch import available_cpus

FILES = (".bin", ".offsets", ".mask")  # of a tokenized part: ids, where documents start, which ids are learned
BUFFER = 2**20  # bytes
WORTH = 2**22  # bytes of source that take a worker longer than its start
SEGMENTS = b"\xff" * 8  # in a hash, before a document of segments: no text is as long as that


def parts_of(dataset: Any, split: str) -> list[Any]:
    """Return the independent parts of a split; a dataset without parts is one, of unknown size."""
    whole = SimpleNamespace(name=type(dataset).__name__, size=0, documents=partial(documents, dataset, split))
    return list(dataset.parts(split) if has(dataset, "parts") else ()) or [whole]


def tokenize_part(tokenizer: Tokenizer, dtype: str, task: tuple[Any, Path]) -> tuple[int, bool]:
    """Write PATH.bin, PATH.offsets and PATH.mask of a part and a path. Raises UserError.

    Returns the number of tokens, and whether some are not learned.
    """
    part, path = task
    tokens, masked, eot = 0, False, getattr(tokenizer, "eot_id", None) is not None
    with ExitStack() as stack:
        paths = [path.with_suffix(suffix) for suffix in FILES]
        ids_file, offsets, mask = (stack.enter_context(file.open("wb", BUFFER)) for file in paths)
        for number, document in enumerate(part.documents()):
            continues = not number and getattr(part, "continues", False)
            if not continues:
                offsets.write(np.array([tokens], "<u8").data)
            for ids, learn in islice(encode_document(document, tokenizer), eot and continues, None):
                ids_file.write(ids.astype(dtype).data)
                mask.write((b"\1" if learn else b"\0") * len(ids))
                tokens, masked = tokens + len(ids), masked or not learn
                del ids
            del document  # before the next one is read
    return tokens, masked


def hash_part(part: Any) -> tuple[bytes, int]:
    """Return a hash of the documents of a part, and their number of characters."""
    digest, characters = sha256(), 0
    for document in part.documents():
        pieces = segments(document)
        if not isinstance(document, str):
            digest.update(SEGMENTS + repr([(piece.learn, piece.special) for piece in pieces]).encode())
        for piece in pieces:
            data = piece.text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
            characters += len(piece.text)
            del piece, data
        del document, pieces  # before the next one is read
    return digest.digest(), characters


def map_parts(
    function: Callable[[Any], Any], tasks: Sequence[Any], workers: int | None = None, size: int = 0
) -> Iterator[Any]:
    """Yield function(task) of each task, in order. Raises what it raises, PealmError if a worker process dies.

    workers: None: one for each available core, as far as `size` bytes of source are worth it. Without workers, or if
    something can't be pickled, this process does it.
    """
    if workers is None:
        workers = min(available_cpus(), size // WORTH)
    workers = min(workers, len(tasks))
    if workers < 2 or multiprocessing.current_process().daemon or not _can_be_sent((function, tasks[0])):
        yield from map(function, tasks)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (function,))
    try:
        with _as_workers_see_it():
            results = pool.map(_run, tasks)
        yield from results
    except BrokenProcessPool as error:
        raise PealmError("a worker process died, perhaps out of memory") from error
    finally:
        pool.shutdown(cancel_futures=True)


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


def _can_be_sent(things: Any) -> bool:
    try:
        with _as_workers_see_it():
            return bool(pickle.dumps(things))
    except Exception:
        return False


_function: Callable[[Any], Any]  # of this worker process


def _start(function: Callable[[Any], Any]) -> None:
    """Set up a worker process, which ends without a message on Ctrl-C, and when its parent does."""
    global _function
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _function = function


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(task: Any) -> Any:
    return _function(task)
