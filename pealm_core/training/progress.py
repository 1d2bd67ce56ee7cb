"""Where the numbers of a run go: the screen (a live line or plain ones), metrics.jsonl, samples.jsonl, plugins."""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pealm_core.config.paths import printable
from pealm_core.inference.lm import LM
from pealm_core.training.learning_rate import due
from pealm_core.training.objective import RESERVED
from pealm_core.training.observers import Metrics
from pealm_core.training.run_folder import SAMPLES

if TYPE_CHECKING:
    from pealm_core.training.trainer import Trainer

SAMPLE_TOKENS = 200  # in a text of --sample-every


class Display:
    """The progress of a run. Plain lines come with each validation and otherwise every ten seconds.

    Losing the terminal or the pipe that reads the lines never ends a run: it continues in silence.
    """

    def __init__(self, *, floor: float | None = None, quiet: bool = False) -> None:
        """floor: the entropy floor in nats per token, shown beside the validation loss."""
        self.console = _Console(file=sys.stdout, quiet=quiet, highlight=False, soft_wrap=True)
        self.floor = floor
        self._live: Progress | None = None
        self._task: Any = None
        self._shown = 0.0

    def __enter__(self) -> "Display":
        if self.console.is_terminal and not self.console.quiet:
            self._live = Progress(
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%  {task.description}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=self.console,
            )
            self._task = self._live.add_task("starting", total=1.0)
            self._live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """Print a line that stays."""
        try:
            self.console.print(printable(line), markup=False)
        except OSError:
            self.console.give_up()

    def step(self, metrics: Mapping[str, Any], progress: float) -> None:
        """Show a step: its metrics and the fraction of the run that is done (0 to 1)."""
        loss = "none" if metrics["loss"] is None else f"{metrics['loss']:.4f}"  # none: no token was scored
        step, others = metrics["step"], [item for item in metrics.items() if item[0] not in RESERVED]
        more = "".join(f"  {name} {value:.4g}" for name, value in others if isinstance(value, int | float))
        text = f"step {step:,}  loss {loss}{more}  {metrics['tokens_per_second']:,.0f} tokens/s"
        if self._live is not None:
            self._live.update(self._task, completed=progress, description=text)
        elif "val_loss" not in metrics and time.monotonic() - self._shown > 10:
            self.say(f"{text}  {100 * progress:.0f}%")
            self._shown = time.monotonic()
        if "val_loss" in metrics:
            floor = f" (floor {self.floor:.4f})" if self.floor else ""
            self.say(f"step {step:>6,}  train {loss}  val {metrics['val_loss']:.4f}{floor}{more}")
            self._shown = time.monotonic()


class _Console(Console):
    """A console that falls silent when nobody reads it any more; rich's own ends the process."""

    def on_broken_pipe(self) -> None:
        self.give_up()

    def give_up(self) -> None:
        """Print nothing more, also not at exit."""
        self.quiet = True
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Recorder:
    """Records what the training loop reports. Every method is called on every rank."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer

    def step(self, line: dict[str, Any]) -> None:
        """Record the metrics of a step, in order; on a GPU some steps late."""
        t, line = self.trainer, Metrics(line)
        t.observers.call("pealm_metrics", step=line["step"], metrics=line)
        t.run.log(line)
        t.display.step(line, t.progress())
        if due(line["step"], t.settings.sample_every) and (t.world.main or t.strategy.collective):
            t.run.log({"step": line["step"], "tokens": line["tokens"], **self._sample()}, SAMPLES)
        t.saver.poll()

    def _sample(self) -> dict[str, str]:
        """Generate a text, with the same draws every time. Each step seeds its own, so training isn't affected."""
        t = self.trainer
        s = t.settings
        cuda = t.device.type == "cuda"  # the model is compiled for one shape, and here each token has another
        with torch.compiler.set_stance("force_eager") if cuda else nullcontext(), t.observers.evaluating() as model:
            lm = LM(model, t.tokenizer, {})
            lm.graphs = False  # the thread that draws batches uses the GPU meanwhile
            (sample,) = lm.samples([s.sample_prompt], max_new_tokens=SAMPLE_TOKENS, seed=s.seed)
        return {"prompt": s.sample_prompt, "text": sample.text}
