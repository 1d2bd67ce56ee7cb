"""From a job to the facts of its run, and to the lines that show them."""

import sys
from collections.abc import Iterator
from typing import Any

import torch

from pealm_core import UserError, fast_bf16, faster
from pealm_estimate.ledger import cost
from pealm_estimate.machine import peak, replay

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GB = 1e9
# What glibc's allocator keeps unused, as a fraction of the blocks below `ledger.MAPPED`. It looks for a chunk that is
# 96 bytes larger than an aligned block takes in the end. So the gap that a tensor leaves is too small for the next
# tensor of the same size, unless a neighbour is free. Measured: 0.21 to 0.62, eight models in fp32 and bf16.
GAPS = 0.38


def facts(job: Any, *, processes: int, tflops: float | None, mfu: float, price: float | None) -> dict[str, Any]:
    """Return the estimate as numbers by name: bytes, seconds, tokens."""
    s = job.configs["train"]
    device = torch.device(s.device if s.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    with faster(torch.nn.Module(), device, (*s.without, "compile")):  # the libraries and kernels of training
        return _facts(job, device, processes=processes, tflops=tflops, mfu=mfu, price=price)


def _facts(
    job: Any, device: torch.device, *, processes: int, tflops: float | None, mfu: float, price: float | None
) -> dict[str, Any]:
    s = job.configs["train"]
    dtype = DTYPES.get(s.dtype) or (torch.bfloat16 if fast_bf16(device) else torch.float32)
    block = s.block_size or job.configs["model"].block_size
    local = s.batch_size // processes
    micro = min(s.micro_batch_size or local, local)
    passes = -(-local // micro)

    def step(rows: int) -> Any:
        return cost(
            lambda: job.make("strategy").wrap(job.entries["model"].make(job.configs["model"])),
            lambda model: job.make("optimizer", model, lr=s.lr),
            micro_batch_size=rows,
            block_size=block,
            dtype=dtype,
        )

    exact = step(micro)
    others = {rows: step(rows) for rows in {1, 2}} if micro > 2 else {}
    sharded = processes if job.entries["strategy"].name == "fsdp" else 1
    found: dict[str, Any] = {
        "model": job.entries["model"].name,
        "parameters": exact.parameters,
        "dtype": str(dtype).removeprefix("torch."),
        "processes": processes,
        "weights": exact.weights // sharded,
        "gradients": exact.gradients // sharded,
        "optimizer": exact.optimizer // sharded,
        "passes": passes,
        "memory": {},
    }
    for rows, each in sorted({**others, micro: exact}.items()):
        several = 2 if local > rows else 1
        total = (each.memory(several) - each.working) // sharded + each.working
        if device.type == "cpu" and sys.platform == "linux":
            total += int(GAPS * max(0, total - each.mapped))
        found["memory"][str(rows)] = {"activations": max(0, each.working - exact.gradients), "total": total}
    found["micro_batch_size"] = micro
    found["flops_per_token"] = exact.flops / (micro * block)
    tokens = s.batch_size * block
    if tflops is not None:
        if not exact.flops:
            raise UserError(f"{found['model']} has no matrix products, so that --tflops says nothing; leave it out")
        found["peak"] = tflops * 1e12
        seconds = found["flops_per_token"] * tokens / (tflops * 1e12 * mfu * processes)
    else:
        found["peak"] = peak(device, dtype)
        seconds = passes * replay(exact.calls, device) + replay(exact.update, device)
    found |= {"tokens_per_step": tokens, "seconds_per_step": seconds, "tokens_per_second": tokens / seconds}
    found["mfu"] = found["flops_per_token"] * found["tokens_per_second"] / processes / found["peak"]
    found["steps"] = s.steps
    found["seconds"] = s.steps * seconds if s.steps else s.max_seconds
    if price is not None and found["seconds"]:
        found["cost"] = price * processes * found["seconds"] / 3600
    return found


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the estimate as lines to read."""
    yield f"model       {found['model']}: {found['parameters']:,} parameters, {found['dtype']}"
    parts = (f"{name} {found[name] / GB:.3f}" for name in ("weights", "gradients", "optimizer"))
    yield f"memory      GB of each process: {', '.join(parts)}"
    for rows, memory in found["memory"].items():
        yield (
            f"            micro-batch {rows:>4}: activations {memory['activations'] / GB:.3f}, "
            f"at most {memory['total'] / GB:.3f} in all"
        )
    work, peak = (
        f"{found['flops_per_token'] / 1e9:.3g} GFLOP a token",
        f"the peak of {found['peak'] / 1e12:.3g} TFLOP/s",
    )
    yield f"speed       {found['tokens_per_second']:,.0f} tokens/s, {work}, {100 * found['mfu']:.0f} % of {peak}"
    passes = f"{found['passes']} pass{'es' * (found['passes'] > 1)}"
    yield f"step        {found['tokens_per_step']:,} tokens in {found['seconds_per_step']:.3g} s, {passes}"
    if found["seconds"]:
        steps = f"{found['steps']:,} steps, " if found["steps"] else ""
        yield f"run         {steps}{found['seconds'] / 3600:.3g} hours" + (
            f", costs {found['cost']:,.2f}" if "cost" in found else ""
        )
