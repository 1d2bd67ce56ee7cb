"""Run a function in several processes that communicate, as torchrun starts them."""

import json
import os
import pickle
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from pealm_testing.errors import ConformanceError

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from pealm_testing.ranks import main; main()"


def on_ranks(size: int, function: str, argument: Any) -> list[Any]:
    """Call `module:function` with the argument on each of `size` ranks; returns each rank's result (JSON values).

    Raises ConformanceError with the last line of stderr of every rank that fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), folder, str(rank), str(size), function],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for rank in range(size)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(pickle.dumps(argument))  # a pipe to a process of our own; nothing is stored
            process.stdin.close()
            process.stdin = None
        outputs = []
        for process in processes:
            try:
                outputs.append(process.communicate(timeout=120))
            except subprocess.TimeoutExpired:
                for other in processes:
                    other.kill()
                outputs.append(process.communicate())
        failures = []
        for rank, (process, (_, err)) in enumerate(zip(processes, outputs, strict=True)):
            if process.returncode:
                lines = err.decode("utf-8", "replace").strip().splitlines() or ["no message"]
                failures.append(f"rank {rank} of {size} failed: {lines[-1].removeprefix(f'[rank{rank}]: ')}")
        if failures:
            # When one rank ends, the others fail with "Connection closed by peer", which is not the cause.
            causes = [line for line in failures if "by peer" not in line]
            raise ConformanceError("; ".join(causes or failures))
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]


def main() -> None:
    """Run one of the processes. argv: sys.path, the shared folder, rank, size and the function."""
    import torch
    import torch.distributed as dist

    folder, rank, size, function = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    torch.set_num_threads(1)
    if size > 1:
        store = dist.FileStore(str(folder / "store"), size)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    module, _, name = function.partition(":")
    result = getattr(import_module(module), name)(pickle.load(sys.stdin.buffer))
    (folder / f"{rank}.json").write_text(json.dumps(result))
    if size > 1:
        dist.barrier()
        os._exit(0)  # gloo's threads may crash at exit while other ranks still communicate
