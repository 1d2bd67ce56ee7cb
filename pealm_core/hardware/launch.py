"""This process's place among the processes of a run, as torchrun or another launcher tells it. Without torch."""

import os

from pealm_core.contract.errors import UserError

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")


def launched() -> tuple[int, int, int]:
    """Return (rank, number of processes, rank on this machine); (0, 1, 0) without a launcher.

    Raises UserError for variables that are missing or make no sense.
    """
    values = {name: os.environ.get(name) or "" for name in NUMBERS}
    if not values["WORLD_SIZE"]:
        return 0, 1, 0
    for name, value in values.items():
        if value and not (value.isascii() and value.isdigit()):
            raise UserError(f"{name}={value}: not a whole number; start the processes by torchrun")
    rank, size, local_rank, _, port = (int(value or 0) for value in values.values())
    if rank >= size:
        raise UserError(f"RANK={rank} and WORLD_SIZE={size}: a rank is less than the number of processes")
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing and size > 1:
        raise UserError(f"WORLD_SIZE={size}, but no {', '.join(missing)}; start the processes by torchrun")
    if port >= 2**16:
        raise UserError(f"MASTER_PORT={port}: a port is less than {2**16}")
    return rank, size, local_rank
