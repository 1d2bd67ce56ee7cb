"""Checks for evaluators."""

import copy
import math
from collections.abc import Mapping
from itertools import product
from typing import Any, ClassVar
from unittest import SkipTest

import torch

from pealm_core import EvalResult, EvaluatorSpec, PealmError
from pealm_testing.base import ComponentConformance
from pealm_testing.dummies import Bytes, Texts, Uniform
from pealm_testing.errors import ConformanceError
from pealm_testing.ranks import on_ranks

# Documents for evaluators that read a dataset: several, of two sentences each, with different last words.
TEXTS = tuple(
    f"{who} saw a {what}. It ran to the {where}.\n"
    for who, what, where in product(
        ("Ann", "Bob", "Eve"), ("fox", "hen", "dog"), ("barn", "hill", "lake", "mill", "road", "well")
    )
)


class EvaluatorConformance(ComponentConformance):
    """An evaluator, applied to a model that predicts each of 257 tokens (bytes, end-of-text) with equal probability.

    config: where its data is; small sizes. expected: values of metrics for this model, such as
    {"nats per byte": math.log(257)}. trained_on: the tables of the checkpoint's config that the evaluator gets.
    texts: documents of the dataset, for an evaluator whose record has `input=True`; by default 54 of two sentences.
    """

    kind = EvaluatorSpec
    expected: ClassVar[Mapping[str, float]] = {}
    trained_on: ClassVar[Any] = {}
    texts: ClassVar[Any] = TEXTS

    def model(self) -> Uniform:
        """Make the model that predicts every token with equal probability, in eval mode."""
        return Uniform(Bytes.vocab_size).eval()

    def result(self, model: Any = None, progress: Any = lambda done, total, what="": None) -> EvalResult:
        """Evaluate a model, by default `self.model()`."""
        more = {"dataset": Texts(self.texts), "split": "val"} if self.entry.spec.input else {}
        try:
            result = self.make().evaluate(
                self.model() if model is None else model, Bytes(), config=self.trained_on, progress=progress, **more
            )
        except TypeError as error:
            raise ConformanceError(
                f"{error}: the signature is evaluate(self, model, tokenizer, *, config, progress), with dataset "
                f"and split as well if the record has input=True"
            ) from error
        except PealmError as error:
            if self.config or self.texts is not TEXTS:
                raise ConformanceError(f"it can't evaluate: {error}") from error
            if self.entry.spec.input:
                raise SkipTest(f"it can't use the kit's documents; set texts = [...]: {error}") from error
            raise SkipTest(f"its data is not here; set config = {{...}}: {error}") from error
        if not isinstance(result, EvalResult):
            raise ConformanceError(f"evaluate must return an EvalResult, not {result!r:.60}")
        return result

    def test_result_is_well_formed(self) -> None:
        """Catches metrics that are not (value, standard error) or not finite, and a count of zero."""
        result = self.result()
        if not result.metrics:
            raise ConformanceError("it has no metrics: EvalResult(metrics={'accuracy': (value, stderr)}, n=...)")
        for name, pair in result.metrics.items():
            if not (isinstance(pair, tuple) and len(pair) == 2):
                raise ConformanceError(f"metric {name!r} is {pair!r}, not (value, stderr)")
            if not (all(isinstance(x, float | int) and math.isfinite(x) for x in pair) and pair[1] >= 0):
                raise ConformanceError(
                    f"metric {name!r} is {pair!r}: give two finite numbers, the second a standard error of at least 0"
                )
        if result.n <= 0:
            raise ConformanceError(f"n is {result.n}: give the number of scored items")
        if isinstance(result.notes, str):
            raise ConformanceError("notes is a str: give a list of lines")

    def test_known_score(self) -> None:
        """Catches a wrong score: bits instead of nats, a sum instead of a mean, targets shifted by one."""
        if not self.expected:
            raise SkipTest("set expected = {metric: value}, the score of a model with uniform predictions")
        metrics = self.result().metrics
        for name, value in self.expected.items():
            if name not in metrics:
                raise ConformanceError(f"there is no metric {name!r}, only {', '.join(metrics)}")
            score = metrics[name][0]
            if not math.isclose(score, value, rel_tol=1e-3, abs_tol=1e-5):
                raise ConformanceError(
                    f"{name} of a model with uniform predictions is {score:.5f}; expected {value:.5f}"
                )

    def test_it_is_deterministic(self) -> None:
        """Catches unseeded sampling: models could not be compared."""
        first, second = dict(self.result().metrics), dict(self.result().metrics)
        if first != second:
            raise ConformanceError(f"two evaluations of one model give {first} and {second}: use a fixed seed")

    def test_model_is_unchanged(self) -> None:
        """Catches an evaluator that leaves train mode on, keeps gradients or changes weights."""
        model = self.model()
        before = copy.deepcopy(model.state_dict())
        random = torch.get_rng_state()
        self.result(model)
        if model.training:
            raise ConformanceError("it leaves the model in train mode: keep eval mode")
        if any(p.grad is not None for p in model.parameters()):
            raise ConformanceError("it leaves gradients: evaluate under torch.inference_mode")
        if not all(torch.equal(before[name], value) for name, value in model.state_dict().items()):
            raise ConformanceError("it changes the model's weights")
        if not torch.equal(random, torch.get_rng_state()):
            raise ConformanceError(
                "it draws from torch's global generator: use a torch.Generator of its own, or Sampling(seed=...)"
            )

    def test_progress_increases(self) -> None:
        """Catches a progress bar that stands still, goes backwards or beyond its end."""
        calls: list[tuple[int, int]] = []
        self.result(progress=lambda done, total, what="": calls.append((done, total)))
        if not calls:
            raise ConformanceError("progress(done, total) is never called: the user sees nothing for minutes")
        if any(done > total for done, total in calls):
            raise ConformanceError(f"progress goes beyond its end: {max(calls)} (done, total)")
        if [done for done, _ in calls] != sorted(done for done, _ in calls):
            raise ConformanceError("progress goes backwards")

    def test_two_processes_give_the_same_score(self) -> None:
        """Catches means that are averaged over ranks instead of sums and counts. Slow."""
        self.only_slow()
        one = {name: list(pair) for name, pair in self.result().metrics.items()}
        task = self.attributes("trained_on", "texts")
        for rank, metrics in enumerate(on_ranks(2, "pealm_testing.evaluator:evaluate", task)):
            for name, pair in one.items():
                close = (math.isclose(*x, rel_tol=1e-6, abs_tol=1e-9) for x in zip(pair, metrics[name], strict=True))
                if not all(close):
                    raise ConformanceError(
                        f"{name} is {pair} in one process, but {metrics[name]} on rank {rank} of two: score() "
                        f"returns all scores on every rank; sum your own scores over ranks and divide once"
                    )


def evaluate(task: dict[str, Any]) -> dict[str, list[float]]:
    """Return the metrics on one rank. task: the kit's attributes."""
    metrics = EvaluatorConformance.with_attributes(task).result().metrics
    return {name: list(pair) for name, pair in metrics.items()}
