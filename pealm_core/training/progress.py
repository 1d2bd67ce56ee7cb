"""What a run reports: numbers on the screen, in metrics.jsonl and to plugins, samples, and why a step failed."""

import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from pealm_core.config.paths import printable
from pealm_core.contract.errors import PealmError
from pealm_core.hardware.device import autocast
from pealm_core.inference.lm import LM
from pealm_core.training.learning_rate import due
from pealm_core.training.objective import RESERVED
from pealm_core.training.observers import Metrics
from pealm_core.training.run_folder import SAMPLES

if TYPE_CHECKING:
    from pealm_core.training.trainer import Trainer

CLEAR = "\r\x1b[K"  # back to the start of an empty line
SAMPLE_TOKENS = 200  # in a text of --sample-every


class Display:
    """The progress of a run: lines that stay, with each validation and otherwise every ten seconds.

    In a terminal, one changing line instead of the latter. Losing the terminal or the pipe that reads the lines never
    ends a run: it continues in silence.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.floor: float | None = None  # the entropy floor in nats per token, shown beside the validation loss
        self._quiet, self._live = quiet, sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = 0.0
        self._first: tuple[float, float] | None = None  # the progress at the first step, and when it was

    def clear(self) -> None:
        """Remove the line that changes, before something else is written."""
        if self._live:
            self._write(CLEAR)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.clear()
        self._write(f"{printable(line)}\n")

    def step(self, metrics: Mapping[str, Any], progress: float) -> None:
        """Show a step: its metrics and the fraction of the run that is done (0 to 1)."""
        loss = "none" if metrics["loss"] is None else f"{metrics['loss']:.4f}"  # none: no token was scored
        step, others = metrics["step"], [item for item in metrics.items() if item[0] not in RESERVED]
        more = "".join(f"  {name} {value:.4g}" for name, value in others if isinstance(value, int | float))
        self._first = self._first or (progress, time.monotonic())
        text = f"step {step:,}  loss {loss}{more}  {metrics['tokens_per_second']:,.0f} tokens/s"
        if "val_loss" in metrics:
            floor = f" (floor {self.floor:.4f})" if self.floor else ""
            self.say(f"step {step:>6,}  train {loss}  val {metrics['val_loss']:.4f}{floor}{more}")
            self._shown = time.monotonic()
        elif time.monotonic() - self._shown > (0.1 if self._live else 10):
            percent, (done, began) = f"{100 * progress:.0f}%", self._first
            if self._live and progress > done:
                seconds = (time.monotonic() - began) * (1 - progress) / (progress - done)
                text = (
                    f"[{'=' * int(24 * progress):<24}] {percent:>4}  {text}  {timedelta(seconds=int(seconds))} left"
                )
                self._write(CLEAR + printable(text)[: shutil.get_terminal_size().columns - 1])
            elif not self._live:
                self.say(f"{text}  {percent}")
            self._shown = time.monotonic()

    def _write(self, text: str) -> None:
        if self._quiet:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:  # nobody reads it any more
            self._quiet = True
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the exit


def not_finite(name: str, step: int, rank: int, number: float) -> PealmError:
    """Return the error for a loss or `grad_norm` that is NaN or infinite."""
    return PealmError(
        f"the {name.replace('grad_', 'gradient ')} is not finite at step {step} (rank {rank}): {number}; the last "
        f"checkpoint is kept. Try a lower --lr or more --warmup-steps"
    )


def out_of_memory(t: "Trainer") -> PealmError:
    """Return the error for a step that needs more memory than there is."""
    micro, block = t.micro_batch_size, t.data.train.block_size
    smaller = f"--micro-batch-size {micro // 2}" if micro > 1 else f"--block-size {block // 2}"
    return PealmError(
        f"out of memory on {t.device} at step {t.step + 1} (rank {t.world.rank}): {micro} sequences of {block} "
        f"tokens in a pass; try {smaller} or a smaller model (--model.n-layer, ...)"
    )


def record(t: "Trainer", metrics: Mapping[str, Any]) -> None:
    """Record the metrics of a step, in order; on a GPU some steps late. Called on every rank."""
    line = Metrics(metrics)
    t.observers.call("pealm_metrics", step=line["step"], metrics=line)
    t.run.log(line)
    t.display.step(line, t.progress())
    if due(line["step"], t.settings.sample_every) and (t.world.main or t.strategy.collective):
        t.run.log({"step": line["step"], "tokens": line["tokens"], **sample(t)}, SAMPLES)
    t.saver.poll()


def sample(t: "Trainer") -> dict[str, str]:
    """Generate a text, with the same draws every time. Each step seeds its own, so training isn't affected."""
    cuda = t.device.type == "cuda"  # the model is compiled for one shape, and here each token has another
    with (
        torch.compiler.set_stance("force_eager") if cuda else nullcontext(),
        autocast(t.device, t.dtype) if t.strategy.collective else nullcontext(),  # its weights may be in bf16
        t.observers.evaluating() as model,
    ):
        lm = LM(model, t.tokenizer, {})
        lm.graphs = False  # the thread that draws batches uses the GPU meanwhile
        prompt = t.settings.sample_prompt
        (text,) = lm.samples([prompt], max_new_tokens=SAMPLE_TOKENS, seed=t.settings.seed)
    return {"prompt": prompt, "text": text.text}
