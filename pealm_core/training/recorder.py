"""Where the numbers of a run go: metrics.jsonl, the screen, the plugins, samples.jsonl."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from pealm_core.inference.lm import LM
from pealm_core.training.learning_rate import due
from pealm_core.training.run_folder import SAMPLES

if TYPE_CHECKING:
    from pealm_core.training.trainer import Trainer

SAMPLE_TOKENS = 200  # in a text of --sample-every


class Recorder:
    """Records what the training loop reports. Every method is called on every rank."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer

    def step(self, line: dict[str, Any]) -> None:
        """Record the metrics of a step, in order; on a GPU some steps late."""
        t = self.trainer
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
            (sample,) = lm.samples([s.sample_prompt], max_new_tokens=SAMPLE_TOKENS, seed=s.seed)
        return {"prompt": s.sample_prompt, "text": sample.text}
