"""Run evaluations during training, equal to those of `pealm eval` on the checkpoint of the same step."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from pealm_core import LM, Trainer, UserError, plan_evaluation
from pealm_evals.config import TrackConfig
from pealm_evals.evaluation import Evaluation


class Tracker:
    """The evaluations of a run, and their results by step until they are written."""

    def __init__(self, trainer: Trainer, options: TrackConfig) -> None:
        """Make the evaluations, and run a row of each that takes a limit: a mistake ends the run at once."""
        self.trainer, self.options = trainer, options
        self.results: dict[int, dict[str, float]] = {}
        self.evaluations: dict[str, Evaluation] = {}  # by the name in metrics.jsonl
        counts = Counter[str]()
        for text in options.on:
            job = plan_evaluation(trainer.run.config, words(text))
            name = job.entries["eval"].name
            counts[name] += 1
            label = name if counts[name] == 1 else f"{name}-{counts[name]}"
            self.evaluations[label] = Evaluation(job, trainer.world, limit=options.limit)
            if hasattr(job.configs["eval"], "limit"):
                self._run(Evaluation(job, trainer.world, limit=1))

    def evaluate_if_due(self) -> None:
        """Evaluate after every so many steps, and after the last one."""
        step = self.trainer.step
        if step % self.options.every and step != self.trainer.settings.steps:
            return
        results = self.results[step] = {}
        for name, evaluation in self.evaluations.items():
            for metric, value in self._run(evaluation).items():
                results[f"{name}/{metric}"] = value

    def _run(self, evaluation: Evaluation) -> Mapping[str, float]:
        """Return the metrics of an evaluation of the current model."""
        with self.trainer.evaluating() as model, _as_in_a_command(model):
            result = evaluation.run(LM(model, self.trainer.tokenizer, self.trainer.run.config))
        return {name: value for name, (value, _) in result.metrics.items()}


@contextmanager
def _as_in_a_command(model: torch.nn.Module) -> Iterator[None]:
    """On a GPU, compute as `pealm eval` does: without TF32, and without compiling for each new shape."""
    if next(model.parameters()).device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def words(text: str) -> dict[str, dict[str, Any]]:
    """Return the tables of `NAME:key=value:...`; a key `input.KEY` is of the input. Raises UserError.

    >>> words("perplexity:stride=8:input.text=book.txt")
    {'eval': {'name': 'perplexity', 'stride': '8'}, 'input': {'text': 'book.txt'}}
    """
    name, *settings = text.split(":")
    tables: dict[str, dict[str, Any]] = {"eval": {"name": name}}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key or not name:
            raise UserError(f"--track {text}: give it as NAME, or as NAME:key=value:key=value")
        table, dot, own = key.partition(".")
        tables.setdefault("input" if dot and table == "input" else "eval", {})[own if dot else key] = value
    return tables
