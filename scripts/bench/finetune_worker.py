"""What scripts/bench/finetune.py runs in its two processes: a plugin of pealm, and a loop over transformers or peft.

The environment variable FINETUNE has the settings, and the pipes on which a line "go" starts a turn and a line of
JSON tells what it took.
"""

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from pealm_core import TokenizerSpec, hookimpl

SPEC = json.loads(os.environ.get("FINETUNE", "{}"))


class Ids:
    """A tokenizer of which only the size counts."""

    vocab_size: int = SPEC.get("vocab_size", 0)

    def encode(self, text: str) -> list[int]:
        """Not used."""
        return [0] * len(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Not used."""
        return ""


class Turns:
    """Wait for the word before each turn, and tell what it took."""

    def __init__(self) -> None:
        self._go, self._answer = os.fdopen(SPEC["go"]), os.fdopen(SPEC["answer"], "w", buffering=1)
        self._losses, self._left, self._size = list[float](), SPEC["warmup"], SPEC["warmup"]
        self._wait()

    def _wait(self) -> None:
        if not self._go.readline():
            sys.exit()
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def step_done(self, loss: float) -> None:
        """Count a step; at a turn's end tell, and wait."""
        self._losses.append(loss)
        self._left -= 1
        if not self._left:
            seconds = (time.perf_counter() - self._began) / self._size
            cpu = (time.process_time() - self._cpu) / self._size
            row = {"seconds": seconds, "cpu": cpu, "losses": self._losses, "memory": memory()}
            print(json.dumps(row), file=self._answer)
            self._losses, self._left, self._size = [], SPEC["steps"], SPEC["steps"]
            self._wait()


def memory() -> int:
    """Return the most memory that this process has had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+)", status)[1]) * 1024  # type: ignore[index]


TURNS: list[Turns] = []


@hookimpl
def pealm_tokenizers() -> Iterator[TokenizerSpec]:
    """The tokenizer `ids`."""
    yield TokenizerSpec(name="ids", summary="Token ids without texts", factory=Ids)


@hookimpl
def pealm_run_start(trainer: Any) -> None:
    """Give the updates their first values, and wait for the first turn."""
    updates = load_file(Path(SPEC["folder"]) / "updates.safetensors")
    for name, parameter in trainer.model.named_parameters():
        if name.endswith(".lora.a"):
            parameter.data.copy_(updates[name.removesuffix(".lora.a")])
    TURNS.append(Turns())


@hookimpl
def pealm_metrics(trainer: Any, step: int, metrics: dict[str, Any]) -> None:
    """Count a step: on a CPU, its metrics come with it."""
    TURNS[0].step_done(metrics["loss"])


def main() -> None:
    """Train with peft, or with --full, all weights of transformers' model."""
    from transformers import GPT2LMHeadModel

    folder, rank = Path(SPEC["folder"]), SPEC["rank"]
    model: Any = GPT2LMHeadModel.from_pretrained(
        folder / "theirs", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False
    )
    if not SPEC["full"]:
        from peft import LoraConfig, get_peft_model

        layers = "attn.c_attn attn.c_proj" if SPEC["targets"] == "attention" else "c_attn c_proj c_fc"
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers.split(), fan_in_fan_out=True)
        model = get_peft_model(model, config)
        updates = load_file(folder / "updates.safetensors")
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.data.copy_(updates[re.search(r"h\.\d+\.\w+\.\w+", name)[0]])  # type: ignore[index]
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=SPEC["lr"], betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    batches, turns = all_batches(), Turns()
    for idx, targets in batches:
        loss = model(idx, labels=targets, shift_labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        turns.step_done(loss.item())


def all_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the batches that pealm draws."""
    from pealm_core.config.settings import TrainSettings
    from pealm_core.data.token_stream import Split
    from pealm_core.data.windows import Windows

    tokens, size = np.load(Path(SPEC["folder"]) / "tokens" / "train-00000.npy"), SPEC["batch_size"]
    mask = np.fromfile(Path(SPEC["folder"]) / "tokens" / "train-00000.mask", np.uint8)
    windows = Windows(Split([tokens], [mask]), SPEC["block_size"], seed=TrainSettings().seed)
    count = SPEC["warmup"] + SPEC["rounds"] * SPEC["steps"] + 1
    rows = [windows.rows(range(step * size, (step + 1) * size)) for step in range(count)]
    return [(row["idx"], row["targets"]) for row in rows]


if __name__ == "__main__":
    main()
