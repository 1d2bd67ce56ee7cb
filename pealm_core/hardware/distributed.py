"""The processes of a run: who this one is, and what they tell each other. Nothing pickles.

What goes wrong on one rank must end all of them: with that rank's own message, and never with a hang.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from pealm_core.contract.errors import ElsewhereError, PealmError
from pealm_core.hardware.cpus import limit_threads


@dataclass(frozen=True)
class World:
    """This process among all: rank of world size, and its place on its own machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def gather(self, *values: float) -> list[tuple[float, ...]]:
        """The values of every rank, by rank, in float64; the same list on every rank."""
        if self.size == 1:
            return [values]
        tensor = torch.tensor(values, dtype=torch.float64)
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor)
        return [tuple(part.tolist()) for part in parts]

    def texts(self, text: str) -> list[str]:
        """The text of every rank, by rank."""
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
        """What fails in here on one rank ends all of them: who failed says why, once for each message."""
        error: PealmError | None = None
        try:
            yield
        except PealmError as raised:
            error = raised
        said = self.texts(str(error or ""))
        if not any(said):
            return
        if error is None or said.index(str(error)) < self.rank:
            raise ElsewhereError("another process failed") from error
        raise error

    def agree(self, facts: dict[str, object]) -> None:
        """Raise PealmError that names what differs where two ranks' facts do."""
        everyone = [json.loads(text) for text in self.texts(json.dumps(facts, default=str))]
        for rank, other in enumerate(everyone):
            for key in sorted(everyone[0].keys() | other.keys()):
                a, b = everyone[0].get(key), other.get(key)
                if a != b:
                    raise PealmError(f"the processes differ: {key} is {a!r} on rank 0 and {b!r} on rank {rank}")


@contextmanager
def one_by_one(world: World) -> Iterator[None]:
    """First the first process of every machine, then its others; a failure of one ends all, as in `together`."""
    first = world.local_rank == 0
    for turn in (True, False):
        with world.together():
            if first == turn:
                yield


def this_process() -> World:
    """This process's place as torchrun tells it; a world of one without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    return World(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))


def join(world: World, device: torch.device) -> None:
    """Meet the other processes: NCCL between GPUs, gloo for everything on CPUs."""
    limit_threads()
    if world.size == 1:
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store, rank, size = next(rendezvous("env://"))
        # Long enough for one process to tokenize while the others wait; one that dies is noticed at once.
        limit = timedelta(hours=2)
        dist.init_process_group(backend, timeout=limit, store=_fresh(store, rank, size), rank=rank, world_size=size)


def _fresh(store: Any, rank: int, size: int) -> Any:
    """A part of the store that no earlier attempt has written to.

    torchrun keeps its store when it starts the processes again, and with it the addresses of those that are gone. So
    every rank signs with a name of its own; rank 0 lists the names, until all ranks have found theirs in one list.
    """
    name = os.urandom(8).hex()
    while True:
        if rank == 0:
            names = " ".join([name, *(store.get(f"pealm/name/{other}").decode() for other in range(1, size))])
            store.set("pealm/names", names)
            time.sleep(0.02)
            agreed = all(store.check([f"pealm/{names}/{other}"]) for other in range(1, size))
        else:
            store.set(f"pealm/name/{rank}", name)
            names = store.get("pealm/names").decode()
            if name in names:
                store.set(f"pealm/{names}/{rank}", "")
            time.sleep(0.02)
            agreed = name in names and store.check([f"pealm/{names}/0"])
        if agreed:
            if rank == 0:
                store.set(f"pealm/{names}/0", "")
            return dist.PrefixStore(f"pealm/{names}", store)  # type: ignore[attr-defined]


def leave() -> None:
    """Leave the process group; gloo's only with the process: taking it down may crash while peers still talk."""
    if dist.is_initialized() and "nccl" in str(dist.get_backend_config()):
        dist.destroy_process_group()


@contextmanager
def peers(world: World) -> Iterator[None]:
    """A collective that fails because another process is gone: that one says why, this one only ends."""
    try:
        yield
    except RuntimeError as error:
        words = str(error).lower()
        if world.size > 1 and any(
            word in words for word in ("gloo", "nccl", "connection closed", "connection reset")
        ):
            raise ElsewhereError("another process is gone") from error
        raise
