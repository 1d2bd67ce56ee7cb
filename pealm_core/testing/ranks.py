"""A check in several processes that know each other, as torchrun starts them. JSON goes in and out."""

import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from pealm_core.testing.ranks import main; main()"


def on_ranks(size: int, function: str, task: Any) -> list[Any]:
    """What `module:function`, called with the task on each of `size` ranks, gives on each of them.

    Raises AssertionError with the last words of every rank that fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), folder, str(rank), str(size), function],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(task))
            process.stdin.close()
            process.stdin = None
        ends = []
        for process in processes:
            try:
                ends.append(process.communicate(timeout=120))
            except subprocess.TimeoutExpired:
                for other in processes:
                    other.kill()
                ends.append(process.communicate())
        failed = []
        for rank, (process, (_, err)) in enumerate(zip(processes, ends, strict=True)):
            if process.returncode:
                last = (err.strip() or "without a word").splitlines()[-1].removeprefix(f"[rank{rank}]: ")
                failed.append(f"rank {rank} of {size} failed: {last}")
        # Where one is gone, the others fail for want of it: "Connection closed by peer" says nothing of the cause.
        causes = [line for line in failed if "by peer" not in line]
        assert not failed, "; ".join(causes or failed)
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]


def main() -> None:
    """One of the processes: argv holds sys.path, the folder that all share, rank, size and the function."""
    import torch
    import torch.distributed as dist

    folder, rank, size, function = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    torch.set_num_threads(1)
    if size > 1:
        store = dist.FileStore(str(folder / "store"), size)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    module, _, name = function.partition(":")
    result = getattr(import_module(module), name)(json.load(sys.stdin))
    (folder / f"{rank}.json").write_text(json.dumps(result))
    if size > 1:
        dist.barrier()
        os._exit(0)  # taking gloo's threads down may crash while peers still talk


def learn(task: dict[str, Any]) -> list[float]:
    """The losses of three steps on one batch, of which each rank has its share."""
    import torch
    import torch.distributed as dist

    from pealm_core.testing.model import ModelConformance
    from pealm_core.training.strategy import data_parallel

    class Check(ModelConformance):
        spec, config, vocab_size = task["spec"], task["config"], task["vocab_size"]

    model = Check().make(seed=4)
    idx, targets = Check().batch(model)
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    wrapped = data_parallel(model) if size > 1 else model  # as the trainer wraps it
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        _, loss = wrapped(idx[rank::size], targets[rank::size])
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        if size > 1:
            dist.all_reduce(total)
        losses.append(float(total) / size)
    return losses


def evaluate(task: dict[str, Any]) -> dict[str, list[float]]:
    """The metrics of an evaluation of the model that knows nothing."""
    from pealm_core.testing.evaluator import EvaluatorConformance

    class Check(EvaluatorConformance):
        spec, config, trained_on, texts = (task[name] for name in ("spec", "config", "trained_on", "texts"))

    return {name: list(pair) for name, pair in Check().result().metrics.items()}
