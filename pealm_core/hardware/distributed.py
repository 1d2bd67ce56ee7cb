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
from pealm_core.hardware.cpus import limit_threads
from pealm_core.hardware.launch import launched

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
        if self.size == 1:
            return [text]
        data = text.encode()
        sizes = [int(size) for (size,) in self.gather(len(data))]
        mine = torch.zeros(max(1, *sizes), dtype=torch.uint8)
        mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else 0
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return [bytes(part[:size].tolist()).decode() for part, size in zip(parts, sizes, strict=True)]

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

    def agree(self, facts: dict[str, object]) -> None:
        """Raise PealmError that names the first fact that differs between two ranks."""
        everyone = [json.loads(text) for text in self.texts(json.dumps(facts, default=str))]
        for rank, other in enumerate(everyone):
            for key in sorted(everyone[0].keys() | other.keys()):
                a, b = everyone[0].get(key), other.get(key)
                if a != b:
                    raise PealmError(f"the processes differ: {key} is {a!r} on rank 0 and {b!r} on rank {rank}")


@contextmanager
def one_by_one(world: World) -> Iterator[None]:
    """Run the first process of every machine, then its others; a failure on one ends all, as in `together`."""
    first = world.local_rank == 0
    for turn in (True, False):
        with world.together():
            if first == turn:
                yield


def this_process() -> World:
    """Return this process's place as its launcher tells it. Raises UserError."""
    return World(*launched())


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
    # Long enough for one process to tokenize while the others wait; the end of a process is noticed at once.
    limit = timedelta(hours=2)
    try:
        _store = _meet(world, _connect(world))
        dist.init_process_group(backend, timeout=limit, store=_store, rank=world.rank, world_size=world.size)
    except RuntimeError as error:
        raise _once(f"can't join the other processes: {_cause(error)}", world) from error


def _connect(world: World) -> Any:
    """Return the store that the processes share. torchrun has one; without it, rank 0 makes one."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    master = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    timer = threading.Timer(PATIENCE, _say, [f"waiting for rank 0 at {address}:{port}"])
    timer.daemon = True
    if world.local_rank == 0 or world.rank == 1:  # one of each machine
        timer.start()
    try:
        options: dict[str, Any] = {"timeout": JOIN_LIMIT, "wait_for_workers": False, "multi_tenant": True}
        return dist.TCPStore(address, port, world.size, master, **options)  # type: ignore[attr-defined]
    finally:
        timer.cancel()


def _meet(world: World, store: Any) -> Any:
    """Wait for the other processes; return a part of the store that no earlier attempt has written to.

    torchrun keeps its store when it restarts the processes, and with it the addresses of the previous ones. So every
    rank signs with a random name, and rank 0 lists the names until all ranks have found theirs in the same list.
    """
    name, names, keys = os.urandom(8).hex(), "", [f"pealm/name/{rank}" for rank in range(world.size)]
    others = range(1, world.size) if world.main else [0]
    store.set(keys[world.rank], name)
    began, told = time.monotonic(), False
    while True:
        if world.main and store.check(keys):
            names = " ".join(value.decode() for value in store.multi_get(keys))
            store.set("pealm/names", names)
        elif not world.main and store.check(["pealm/names"]):
            names = store.get("pealm/names").decode()
        if name in names:
            if not world.main:
                store.set(f"pealm/{names}/{world.rank}", "")
            if store.check([f"pealm/{names}/{rank}" for rank in others]):
                store.set(f"pealm/{names}/{world.rank}", "")
                return dist.PrefixStore(f"pealm/{names}", store)  # type: ignore[attr-defined]
        waited = time.monotonic() - began
        if waited > PATIENCE and not told:
            told, missing = True, [rank for rank, key in enumerate(keys) if not store.check([key])]
            if missing and world.rank == min(set(range(world.size)) - set(missing)):
                here, ranks = world.size - len(missing), ", ".join(map(str, missing[:8]))
                more = ", ..." if len(missing) > 8 else ""
                _say(f"waiting for the other processes: {here} of {world.size} here, missing: rank {ranks}{more}")
        if waited > JOIN_LIMIT.total_seconds():
            raise RuntimeError(f"not all {world.size} came within {JOIN_LIMIT.total_seconds() / 60:.0f} minutes")
        time.sleep(min(0.5, 0.02 + waited / 20))


def leave() -> None:
    """Leave NCCL's process group. gloo's ends with the process: earlier, it may crash while peers still use it."""
    if dist.is_initialized() and "nccl" in str(dist.get_backend_config()):
        dist.destroy_process_group()


@contextmanager
def peers(world: World) -> Iterator[None]:
    """Turn a failure of gloo or NCCL into a PealmError, an ElsewhereError if the cause is another process's end."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if world.size == 1 or not any(word in text for word in ("gloo", "nccl", *CLOSED)):
            raise
        if any(words in text for words in CLOSED) and _count("closed") < world.size:
            raise ElsewhereError("another process has ended") from error
        # Not closed by another process's end, or closed on every rank, of which this one is the last to notice.
        raise _once(f"the processes lost their connection: {_cause(error)}", world) from error


def _once(message: str, world: World) -> PealmError:
    """Return the error to raise: one with the message on the first rank that has it, ElsewhereError on the others."""
    count = _count(message)
    first = count == 1 if count else world.local_rank == 0
    return PealmError(message) if first else ElsewhereError(message)


def _count(key: str) -> int:
    """Count the ranks that have called this with the key so far; 0 if the store can't be reached."""
    try:
        return 0 if _store is None else int(_store.add(f"pealm/{key}", 1))
    except RuntimeError:
        return 0


def _cause(error: RuntimeError) -> str:
    """Return the line of an error that tells the cause."""
    text = str(error)
    if "Unable to find address for" in text and (name := os.environ.get("GLOO_SOCKET_IFNAME")):
        return f"no network interface {name} (GLOO_SOCKET_IFNAME)"
    lines = (text.partition("Last error:")[2] or text).strip().splitlines()  # NCCL's own words come last
    return re.sub(r"^\[[^]]*\]\s*", "", lines[0]) if lines else type(error).__name__


def _say(text: str) -> None:
    print(f"pealm: {text}", file=sys.stderr, flush=True)
