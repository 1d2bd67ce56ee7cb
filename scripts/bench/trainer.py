"""What the trainer costs beside a bare loop on the same model and data, and what a checkpoint costs while training.

    python scripts/bench/trainer.py [--quick]

The first table alternates a step of pealm's trainer (data, gradient norm, finite check, metrics.jsonl) with one of a
loop written by hand (data, forward, backward, AdamW) and compares the medians; neither clips gradients. The second
saves GPT-2 124M with its optimizer state, 1.5 GB, while training goes on: the stall is what the loop waits, the total
is until it is on disk.
"""

import copy
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.config.resolve_job import plan
from pealm_core.config.settings import TrainSettings
from pealm_core.data.sources import Data
from pealm_core.data.token_stream import Split
from pealm_core.data.windows import FixedWindows, Windows
from pealm_core.hardware.distributed import World
from pealm_core.training.ddp import DataParallel
from pealm_core.training.learning_rate import constant
from pealm_core.training.objective import NextToken
from pealm_core.training.progress import Display, record
from pealm_core.training.run_folder import Run
from pealm_core.training.trainer import Trainer


class NoTokenizer:
    """Nothing to save."""

    vocab_size = 0


def trainer(folder: Path, model: torch.nn.Module, block: int, batch: int) -> Trainer:
    """pealm's trainer on random tokens."""
    config: Any = model.config
    tokens = np.random.default_rng(0).integers(config.vocab_size, size=1_000_000).astype(np.uint16)
    settings = TrainSettings(steps=10_000, batch_size=batch, block_size=block, warmup_steps=0, grad_clip=0.0)
    job = replace(plan((), flat={"train": TrainSettings}), configs={"train": settings})
    tokenizer: Any = NoTokenizer()
    run = Run(folder, {"train": {}})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    split = Split([tokens])
    val = [("", 1.0, FixedWindows(split, block))]
    data = Data(Windows(split, block), val, "", "random")
    parts = (NextToken(model, tokenizer), constant(), DataParallel(), World(), torch.device("cpu"), torch.float32)
    return Trainer(job, run, model, model, optimizer, tokenizer, data, *parts, Display(quiet=True))


def overhead(block: int, batch: int, steps: int) -> None:
    """Print the trainer's step beside the bare one."""
    from pealm_char_transformer.config import TransformerConfig
    from pealm_char_transformer.model import Transformer

    config = TransformerConfig(vocab_size=65, block_size=256, n_layer=6, n_head=6, n_embd=384)
    model = Transformer(config)
    bare = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(bare.parameters(), lr=1e-4, fused=True)
    data = np.random.default_rng(0).integers(65, size=1_000_000).astype(np.uint16)

    def hand() -> None:
        starts = torch.randint(len(data) - block - 1, (batch,)).tolist()
        rows = torch.from_numpy(np.stack([data[s : s + block + 1] for s in starts]).astype(np.int64))
        _, loss = bare(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with tempfile.TemporaryDirectory() as folder:
        ours = trainer(Path(folder), model, block, batch)
        ours.model.train()

        def step() -> None:
            record(ours, ours.update())

        times: dict[str, list[float]] = {"bare": [], "pealm": []}
        for number in range(steps + 2):
            for name, once in (("bare", hand), ("pealm", step)) if number % 2 else (("pealm", step), ("bare", hand)):
                began = time.perf_counter()
                once()
                if number >= 2:
                    times[name].append(time.perf_counter() - began)
    by_hand, own = statistics.median(times["bare"]), statistics.median(times["pealm"])
    size = sum(p.numel() for p in model.parameters())
    pairs = [b / a for a, b in zip(times["bare"], times["pealm"], strict=True)]
    print(
        f"{size / 1e6:.1f} M parameters, {batch} x {block} tokens: bare {1e3 * by_hand:7.1f} ms, "
        f"pealm {1e3 * own:7.1f} ms, overhead {100 * (own / by_hand - 1):+.2f} % "
        f"(median of pairs {100 * (statistics.median(pairs) - 1):+.2f} %)"
    )


def saving() -> None:
    """Print what three saves of GPT-2 124M cost."""
    from pealm_gpt2.config import GPT2Config
    from pealm_gpt2.model import GPT2

    model = GPT2(GPT2Config(vocab_size=50257, block_size=64))
    with tempfile.TemporaryDirectory() as folder:
        ours = trainer(Path(folder), model, 64, 1)
        ours.model.train()
        alone = []
        for _ in range(4):
            began = time.perf_counter()
            ours.update()
            alone.append(time.perf_counter() - began)
        for number in range(3):
            began = time.perf_counter()
            ours.saver.save(full=True, best=False)
            stall, beside = time.perf_counter() - began, []
            while ours.saver.busy:
                start = time.perf_counter()
                ours.update()
                beside.append(time.perf_counter() - start)
            ours.saver.settle(last=True)
            total = time.perf_counter() - began
            size = sum(p.stat().st_size for p in checkpoint.steps(Path(folder))[-1].rglob("*") if p.is_file())
            print(
                f"save {number + 1}: {size / 1e9:.2f} GB, stall {stall:.2f} s, on disk after {total:.2f} s; "
                f"meanwhile {len(beside)} steps of {statistics.median(beside):.2f} s, "
                f"{statistics.median(alone[1:]):.2f} s without a save"
            )


def main() -> None:
    """Both tables."""
    quick = "--quick" in sys.argv[1:]
    overhead(256, 4, 4 if quick else 20)
    overhead(256, 16, 2 if quick else 10)
    saving()


if __name__ == "__main__":
    main()
