"""Where the numbers of a run go: metrics.jsonl, the screen, the plugins, samples.jsonl and the checkpoints."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import torch

from pealm_core.config.job import Job
from pealm_core.config.paths import printable
from pealm_core.contract.errors import PluginError
from pealm_core.contract.protocols import Tokenizer
from pealm_core.inference.lm import LM
from pealm_core.training.progress import Display
from pealm_core.training.run_folder import SAMPLES, Run
from pealm_core.training.saving import Saver
from pealm_core.training.schedule import due

if TYPE_CHECKING:
    from pealm_core.training.trainer import Trainer

SAMPLE_TOKENS = 200  # in a text of --sample-every


class Recorder:
    """Records what the training loop reports. Every method is called on every rank."""

    def __init__(self, run: Run, job: Job, tokenizer: Tokenizer, data_key: str, display: Display) -> None:
        self.run, self.job, self.tokenizer, self.display = run, job, tokenizer, display
        self.saver = Saver(
            run,
            tokenizer,
            data_key,
            saved=lambda folder: self.notify("pealm_checkpoint_saved", path=folder),
            warn=display.say,
        )

    def step(self, trainer: "Trainer", metrics: Mapping[str, Any]) -> None:
        """Record the metrics of a step, in order; on a GPU some steps late."""
        step = metrics["step"]
        self.run.log(metrics)
        self.display.step(metrics, trainer.progress())
        self.notify("pealm_step_end", step=step, metrics=metrics)
        if due(step, trainer.settings.sample_every) and trainer.world.main:
            self.run.log({"step": step, "tokens": metrics["tokens"], **self._sample(trainer)}, SAMPLES)
        self.saver.poll(trainer)

    def save(self, trainer: "Trainer", *, full: bool, best: bool) -> None:
        """Save a step checkpoint to resume from (full), and the weights of the lowest validation loss (best)."""
        self.saver.save(trainer, full=full, best=best)

    def finish(self, trainer: "Trainer", *, failed: bool) -> None:
        """Wait for the last save. Raises PealmError if it fails."""
        self.saver.finish(trainer, failed=failed)

    def notify(self, hook: str, **values: Any) -> None:
        """Call the plugins that observe runs. One that fails is named once; the run continues."""
        try:
            self.job.host.notify(hook, run=self.run, **values)
        except PluginError as error:
            with suppress(OSError):  # on the rank where it happened
                print(f"pealm: {printable(str(error))}; the run continues without it", file=sys.stderr)

    def _sample(self, trainer: "Trainer") -> dict[str, str]:
        """Generate a text, with the same draws every time. Each step seeds its own, so training isn't affected."""
        s = trainer.settings
        cuda = trainer.device.type == "cuda"  # the model is compiled for one shape, and here each token has another
        with torch.compiler.set_stance("force_eager") if cuda else nullcontext():
            lm = LM(trainer.model, self.tokenizer, {})
            (sample,) = lm.samples([s.sample_prompt], max_new_tokens=SAMPLE_TOKENS, seed=s.seed)
        return {"prompt": s.sample_prompt, "text": sample.text}
