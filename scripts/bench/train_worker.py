"""The processes that scripts/bench/train.py measures in: each does one thing, so that its memory is its own.

    python scripts/bench/train_worker.py JSON

JSON says what to do (`role`) and at which shape. A line "go" on standard input starts a block of steps; each answer
is one JSON line. Steps that warm up are done before the first "go".
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from pealm_core.contract.errors import PealmError
from pealm_core.hardware.device import autocast, pick_device, pick_dtype

TOKENS = 4_000_000  # random ones, to draw batches from
LR, CLIP = 6e-4, 1.0  # the recipe's


class Turns:
    """Tells the parent what a block of steps took, and waits for its word before the next one."""

    def __init__(self, spec: Mapping[str, Any], device: torch.device, answer: Callable[[Any], None]) -> None:
        self.warmup, self.block, self.device, self.answer = spec["warmup"], spec["block"], device, answer
        import_module("torch._dynamo")  # torch.optim imports it with its first optimizer, transformers long before
        self.imported = memory()
        self.steps, self.began, self.cpu = 0, 0.0, 0.0

    def step_done(self, loss: float) -> None:
        """Count a step; at a block's end answer, and wait."""
        self.steps += 1
        if self.steps < self.warmup or (self.steps - self.warmup) % self.block:
            return
        synchronize(self.device)
        seconds, cpu = time.perf_counter() - self.began, time.process_time() - self.cpu
        if self.steps == self.warmup:
            self.answer({"ready": True})
        else:
            peak, on = memory(), self.device.type == "cuda"
            used = torch.cuda.max_memory_allocated(self.device) if on else peak
            row = {"seconds": seconds / self.block, "cpu": cpu / self.block, "loss": loss}
            self.answer({**row, "memory": used, "imports": 0 if on else self.imported})
        if not sys.stdin.readline():  # the parent has what it wants
            sys.exit()
        self.began, self.cpu = time.perf_counter(), time.process_time()


def memory() -> int:
    """The most memory that this process has had in RAM, in bytes."""
    status = Path("/proc/self/status")  # getrusage would count what the parent had when it started this one
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_tokens(vocab_size: int) -> Any:
    return np.random.default_rng(0).integers(vocab_size, size=TOKENS).astype(np.uint16)


def pealm(spec: Mapping[str, Any], device: torch.device, answer: Callable[[Any], None]) -> None:
    """pealm's trainer: data, loop, metrics.jsonl, all but validations and saves."""
    from pealm_core.config.resolve_job import plan
    from pealm_core.config.settings import TrainSettings
    from pealm_core.data.sources import Data
    from pealm_core.data.token_stream import Split
    from pealm_core.data.windows import FixedWindows, Windows
    from pealm_core.hardware.distributed import World
    from pealm_core.hardware.faster_training import describe
    from pealm_core.training.adamw import AdamWConfig, build
    from pealm_core.training.ddp import DataParallel
    from pealm_core.training.learning_rate import constant
    from pealm_core.training.objective import NextToken
    from pealm_core.training.progress import Display
    from pealm_core.training.run_folder import Run
    from pealm_core.training.trainer import Trainer
    from pealm_gpt2 import model as gpt2
    from pealm_gpt2.config import GPT2Config

    if not spec["padded"]:
        gpt2.ROWS = 1
    shape = spec["shape"]
    settings = TrainSettings(
        steps=1_000_000,  # it ends when no "go" comes any more
        batch_size=spec["batch_size"],
        micro_batch_size=spec["micro_batch_size"],
        lr=LR,
        grad_clip=CLIP,
        warmup_steps=0,
        eval_every=0,
        eval_tokens=1,
        save_every=0,
        without=tuple(spec["without"]),
    )
    turns = Turns(spec, device, answer)
    torch.manual_seed(settings.seed)
    model = gpt2.GPT2(GPT2Config(**shape)).to(device)
    optimizer = build(AdamWConfig(fused=spec["fused"]), model, lr=LR)
    split, block = Split([random_tokens(shape["vocab_size"])]), shape["block_size"]
    val = [("", 1.0, FixedWindows(split, block))]
    data = Data(Windows(split, block), val, "", "random")
    dtype = pick_dtype(spec["dtype"], device)

    class Timed(Display):
        """Count the steps."""

        def step(self, metrics: Mapping[str, Any], progress: float) -> None:
            super().step(metrics, progress)
            turns.step_done(metrics["loss"])

    with tempfile.TemporaryDirectory() as folder:
        job = replace(plan((), flat={"train": TrainSettings}), configs={"train": settings})
        run, nothing = Run(Path(folder), {"train": {}}), cast(Any, None)  # a tokenizer is for saving
        parts = (NextToken(model, nothing), constant(), DataParallel(), World(), device, dtype, Timed(quiet=True))
        trainer = Trainer(job, run, model, model, optimizer, nothing, data, *parts)
        trainer.saver.save = cast(Any, lambda **_: None)  # type: ignore[method-assign]
        answer({"speed": describe(device, dtype, settings.without)})
        trainer.fit()
        run.close()


def transformers(spec: Mapping[str, Any], device: torch.device, answer: Callable[[Any], None]) -> None:
    """A plain loop over transformers' GPT2LMHeadModel: fused AdamW, clipping, SDPA; no dropout, no compile."""
    from transformers import GPT2Config, GPT2LMHeadModel

    turns, shape, dtype = Turns(spec, device, answer), spec["shape"], pick_dtype(spec["dtype"], device)
    config = GPT2Config(
        vocab_size=shape["vocab_size"],
        n_positions=shape["block_size"],
        n_layer=shape["n_layer"],
        n_head=shape["n_head"],
        n_embd=shape["n_embd"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(1337)
    torch.set_float32_matmul_precision("high")
    model: Any = GPT2LMHeadModel(config)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    data, random, block = random_tokens(shape["vocab_size"]), np.random.default_rng(1), shape["block_size"]
    share = spec["micro_batch_size"] or spec["batch_size"]
    words = f"{str(dtype).removeprefix('torch.')}, {model.config._attn_implementation} attention, fused AdamW"
    answer({"speed": words})
    while True:
        loss = 0.0
        for start in range(0, spec["batch_size"], share):
            count = min(share, spec["batch_size"] - start)
            starts = random.integers(len(data) - block, size=count)
            idx = torch.from_numpy(np.stack([data[s : s + block] for s in starts]).astype(np.int64)).to(device)
            with autocast(device, dtype):
                part = model(idx, labels=idx).loss * (count / spec["batch_size"])
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        turns.step_done(loss)


def peak(spec: Mapping[str, Any], device: torch.device, answer: Callable[[Any], None]) -> None:
    """What the device does at best: large square products, and a copy of a large array."""
    cuda = device.type == "cuda"
    dtype = pick_dtype("auto", device)

    def best(function: Callable[[], Any]) -> float:
        """Seconds of one call, in the best of several rounds."""
        calls, rounds = 1, list[float]()
        for _ in range(spec["rounds"]):
            synchronize(device)
            began = time.perf_counter()
            for _ in range(calls):
                function()
            synchronize(device)
            rounds.append((time.perf_counter() - began) / calls)
            calls = max(1, int(spec["seconds"] / rounds[-1]))
        return min(rounds[1:])

    products = {}
    for n in spec["squares"]:
        a, b, out = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(3))
        products[n] = 2 * n**3 / best(partial(torch.mm, a, b, out=out))
    source = torch.ones(spec["copy"] // 4, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.nbytes / best(lambda: target.copy_(source))
    square = max(products, key=lambda n: products[n])
    answer(
        {
            "device": device.type,
            "name": torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
            "dtype": str(dtype).removeprefix("torch."),
            "tf32": cuda and torch.cuda.get_device_capability(device) >= (8, 0),
            "flops": products[square],
            "square": square,
            "bandwidth": moved,
        }
    )


def main() -> None:
    """Do what the JSON says; what goes wrong is an answer, too."""
    out = os.fdopen(os.dup(1), "w", buffering=1)  # nothing that a library prints gets between the answers
    os.dup2(2, 1)

    def answer(row: Any) -> None:
        print(json.dumps(row), file=out)

    spec = json.loads(sys.argv[1])
    try:
        role = {"pealm": pealm, "transformers": transformers, "peak": peak}[spec["role"]]
        device = pick_device(spec["device"])
        role(spec, device if device.type == "cuda" else torch.device("cpu"), answer)
    except (PealmError, torch.OutOfMemoryError) as error:
        answer({"error": str(error).splitlines()[0]})


if __name__ == "__main__":
    main()
