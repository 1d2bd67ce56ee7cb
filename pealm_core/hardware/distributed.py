"""The processes of a run: this one's rank, and what they exchange, without pickle.

A failure on one rank ends all of them, with that rank's message, once, and without a hang.
"""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pealm_core.contract.errors import ElsewhereError, PealmError
from pealm_core.hardware.device import pick_device
from pealm_core.hardware.launch import launched, limit_threads

PATIENCE = 5.0  # seconds until a process says that it waits for others to join
JOIN_LIMIT = timedelta(minutes=30)
CLOSED = ("closed by peer", "reset by peer", "broken pipe", "connection closed")  # what the end of a process causes

_store: Any = None  # shared by the processes of this process's group


@dataclass(frozen=True)
class World:
    """This process's rank among `size` processes, and its rank on its own machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def gather(self, *values: float) -> list[tuple[float, ...]]:
        """Return the values of every rank, by rank, in float64; the same list on every rank."""
        if self.size == 1:
            return [values]
        tensor = torch.tensor(values, dtype=torch.float64)
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor)
        return [tuple(part.tolist()) for part in parts]

    def texts(self, text: str) -> list[str]:
        """Return the text of every rank, by rank."""
        data = text.encode()
        sizes = [int(size) for (size,) in self.gather(len(data))]
        rows = self.gather(*data, *[0] * (max(1, *sizes) - len(data)))
        return [bytes(map(int, row[:size])).decode() for row, size in zip(rows, sizes, strict=True)]

    @contextmanager
    def together(self) -> Iterator[None]:
        """End all ranks if one fails in here: it raises its error, the others raise ElsewhereError.

        Of ranks with the same message, the first raises it.
        """
        error: PealmError | None = None
        try:
            yield
        except PealmError as raised:
            error = raised
        mine = "" if error is None else str(error) or type(error).__name__
        texts = self.texts(mine)
        if not any(texts):
            return
        if error is None or texts.index(mine) < self.rank:
            raise ElsewhereError("another process failed") from error
        raise error

    @contextmanager
    def one_by_one(self) -> Iterator[None]:
        """Run the first process of every machine, then its others; a failure on one ends all, as in `together`."""
        for turn in (True, False):
            with self.together():
                if (self.local_rank == 0) == turn:
                    yield

    def once(self, error: PealmError) -> PealmError:
        """Return what to raise: the error on the first rank that calls this with it, ElsewhereError on the others.

        Unlike `together`, it waits for nobody: the others may be in another collective.
        """
        return error if _count(str(error)) in (None, 1) else ElsewhereError(str(error))

    def agree(self, facts: dict[str, object]) -> None:
        """Raise PealmError that names the first fact that differs between two ranks."""
        first, *others = [json.loads(text) for text in self.texts(json.dumps(facts, default=str))]
        with self.together():
            for rank, other in enumerate(others, 1):
                for key in sorted(first.keys() | other.keys()):
                    if (a := first.get(key)) != (b := other.get(key)):
                        raise PealmError(f"the processes differ: {key} is {a!r} on rank 0 and {b!r} on rank {rank}")


def join(world: World, device: torch.device) -> None:
    """Connect to the other processes: NCCL between GPUs, gloo for everything on CPUs. Raises PealmError."""
    global _store
    limit_threads()
    if world.size == 1:
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    text = f"pealm: rank {world.rank} is waiting for the other {world.size - 1} processes, at {address}:{port}"
    timer = threading.Timer(PATIENCE, print, [text], {"file": sys.stderr, "flush": True})
    if world.local_rank == 0:  # one of each machine
        timer.start()
    try:
        _store = _fresh_store(world, address, port)
        # Long enough for one process to tokenize while the others wait; the end of a process is noticed at once.
        limit = timedelta(hours=2)
        dist.init_process_group(backend, timeout=limit, store=_store, rank=world.rank, world_size=world.size)
    except RuntimeError as error:
        raise _failure("can't join the other processes", error, world) from error
    finally:
        timer.cancel()


def _fresh_store(world: World, address: str, port: int) -> Any:
    """Connect to the processes' store; return a part of it that no earlier attempt has written to.

    torchrun keeps its store when it restarts the processes, and with it what the previous ones wrote. So rank 0 names
    a part at random, and tells every rank by a key that is as new: that rank's random question.
    """
    theirs = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun's; else rank 0 makes one
    options: dict[str, Any] = {"timeout": JOIN_LIMIT, "wait_for_workers": False, "multi_tenant": True}
    store = dist.TCPStore(address, port, world.size, world.main and not theirs, **options)  # type: ignore[attr-defined]
    name, end = os.urandom(8).hex(), time.monotonic() + JOIN_LIMIT.total_seconds()
    if world.main:
        questions = [f"question/{rank}" for rank in range(1, world.size)]
        while store.add(f"answered/{name}", 0) < len(questions):
            for question in questions:
                if store.check([question]):  # of this attempt, or an earlier one until this one's replaces it
                    store.set(store.get(question).decode(), name)
            if time.monotonic() > end:
                raise RuntimeError(f"not all {world.size} came within {JOIN_LIMIT}")
            time.sleep(0.1)
    else:
        store.set(f"question/{world.rank}", name)
        name = store.get(name).decode()  # waits for the answer
        store.add(f"answered/{name}", 1)
    return dist.PrefixStore(name, store)  # type: ignore[attr-defined]


@contextmanager
def peers(world: World) -> Iterator[None]:
    """Turn a failure of gloo or NCCL into a PealmError, an ElsewhereError if the cause is another process's end."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        closed = any(words in text for words in CLOSED)
        if world.size == 1 or not (closed or "gloo" in text or "nccl" in text):
            raise
        raise _failure("the processes lost their connection", error, world, closed=closed) from error


@contextmanager
def processes(name: str) -> Iterator[tuple[World, torch.device]]:
    """Give this process's World and device, connected to the other processes of its launcher. Raises PealmError.

    name: "auto", "cpu", "cuda" or "mps".
    """
    world, device = World(*launched()), pick_device(name)
    join(world, device)
    with peers(world):
        yield world, device
    # gloo's group ends with the process: earlier, it may crash while peers still use it.
    if dist.is_initialized() and "nccl" in str(dist.get_backend_config()):
        dist.destroy_process_group()


def _failure(what: str, error: RuntimeError, world: World, *, closed: bool = False) -> PealmError:
    """Return the error to raise: on one rank a PealmError with the cause, on the others an ElsewhereError.

    The end of a process closes its connections, and that process says why it ended. So closed ones are a cause only
    if every rank reports them.
    """
    message = f"{what}: {_cause(str(error))}"
    key, last = ("closed", world.size) if closed else (message, 1)
    count = _count(key)
    speaks = count == last if count is not None else world.local_rank == 0 and not closed
    return PealmError(message) if speaks else ElsewhereError(message)


def _count(key: str) -> int | None:
    """Return how many ranks have called this with a key; None if there is no store."""
    try:
        return int(_store.add(key, 1))
    except (AttributeError, RuntimeError):
        return None


def _cause(text: str) -> str:
    """Return the line of a text by gloo or NCCL that tells the cause."""
    if "Unable to find address for" in text and (name := os.environ.get("GLOO_SOCKET_IFNAME")):
        return f"no network interface {name} (GLOO_SOCKET_IFNAME)"
    text = text.partition("Last error:")[2] or text  # NCCL's own words come last
    return re.sub(r"^\[[^]]*\]\s*", "", text.strip().partition("\n")[0])
