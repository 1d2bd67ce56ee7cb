"""This process's place among the processes of a run, as torchrun or another launcher tells it. Without torch."""

import os

from pealm_core.contract.errors import UserError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched() -> tuple[int, int, int]:
    """Return (rank, number of processes, rank on this machine); (0, 1, 0) without a launcher. Raises UserError."""
    values = [os.environ.get(name, "") for name in NAMES]
    if not os.environ.get("WORLD_SIZE"):
        return 0, 1, 0
    try:
        rank, size, local_rank, local_size, port = (int(value or 0) for value in values[:4] + values[5:])
        found = size == 1 or (values[0] and values[4] and 0 < port < 2**16)  # the others can be
        if found and 0 <= rank < size and local_rank >= 0 and local_size >= 0:
            return rank, size, local_rank
    except ValueError:  # not a number
        pass
    shown = " ".join(f"{name}={value}" for name, value in zip(NAMES, values, strict=True))
    raise UserError(f"{shown}: no valid place among the processes; start them by torchrun")
