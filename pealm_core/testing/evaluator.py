"""What an evaluation must do."""

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar
from unittest import SkipTest

import torch

from pealm_core.contract.errors import PealmError
from pealm_core.contract.protocols import EvalResult
from pealm_core.contract.specs import EvaluatorSpec
from pealm_core.testing.base import Conformance
from pealm_core.testing.dummies import Bytes, Texts, Uniform
from pealm_core.testing.ranks import on_ranks
from pealm_core.testing.watch import offline, watched

# A little of what an evaluation may look for in a text: several documents, sentences, and words in one place.
TEXTS = tuple(
    f"{who} saw a {what}. It ran to the {where}.\n"
    for who, what, where in product(
        ("Ann", "Bob", "Eve"), ("fox", "hen", "dog"), ("barn", "hill", "lake", "mill", "road", "well")
    )
)


class EvaluatorConformance(Conformance):
    """An evaluation, of a model to which each of 257 tokens (bytes and end-of-text) is equally likely.

    config: how little to evaluate, and where its data lies. expected: metrics that follow from the model's being what
    it is, such as {"nats per byte": math.log(257)}. trained_on: the checkpoint's tables, as the evaluation gets them.
    texts: the documents of the dataset that an evaluation gets whose record says `input`; by default 54 of two
    sentences each.
    slow: also two real processes (ten seconds).
    """

    kind = EvaluatorSpec
    expected: ClassVar[Mapping[str, float]] = {}
    trained_on: ClassVar[Mapping[str, Any]] = {}
    texts: ClassVar[Sequence[str]] = TEXTS
    slow: ClassVar[bool] = False

    def model(self) -> Uniform:
        """The model that knows nothing, in eval mode."""
        return Uniform(Bytes.vocab_size).eval()

    def result(self, model: Any = None, progress: Any = lambda done, total, what="": None) -> EvalResult:
        """The evaluation of a model; of the one that knows nothing by default."""
        more = {"dataset": Texts(self.texts), "split": "val"} if self.entry.spec.input else {}
        try:
            result: EvalResult = self.make().evaluate(
                self.model() if model is None else model, Bytes(), config=self.trained_on, progress=progress, **more
            )
        except TypeError as error:
            raise AssertionError(
                f"{error}: evaluate(self, model, tokenizer, *, config, progress), and with input=True in the record "
                f"dataset and split as well"
            ) from error
        except PealmError as error:
            if self.config or self.texts is not TEXTS:
                raise AssertionError(f"it can't evaluate: {error}") from error
            if self.entry.spec.input:
                raise SkipTest(f"it can't use the kit's documents; texts = [...] gives others: {error}") from error
            raise SkipTest(f"its data is not here; config = {{...}} says where: {error}") from error
        assert isinstance(result, EvalResult), f"evaluate must give an EvalResult, not {result!r:.60}"
        return result

    def test_making_it_touches_nothing(self) -> None:
        """Catches a download or a message as soon as `--help` or `--print-config` makes the evaluation."""
        with offline(), watched() as seen:
            try:
                self.make()
            except (PealmError, OSError) as error:
                raise AssertionError(
                    f"making the evaluation fails without a network ({error}): leave that to prepare"
                ) from error
        assert not seen, f"making the evaluation {' and '.join(seen)}: leave that to evaluate or prepare"

    def test_the_result_is_well_formed(self) -> None:
        """Catches metrics that are no (value, standard error), are not finite, or count nothing."""
        result = self.result()
        assert result.metrics, "it gives no metric: EvalResult(metrics={'accuracy': (value, stderr)}, n=...)"
        for name, pair in result.metrics.items():
            assert isinstance(pair, tuple) and len(pair) == 2, f"metric {name!r} is {pair!r}, no (value, stderr)"
            assert all(isinstance(x, float | int) and math.isfinite(x) for x in pair) and pair[1] >= 0, (
                f"metric {name!r} is {pair!r}: two finite numbers, the second one a standard error of 0 or more"
            )
        assert result.n > 0, f"n is {result.n}: how many things were scored"
        assert not isinstance(result.notes, str), "notes is one text: give a list of lines"

    def test_a_known_score(self) -> None:
        """Catches a score that is wrong: bits for nats, a sum for a mean, an off-by-one in what is predicted."""
        if not self.expected:
            raise SkipTest("expected = {metric: value} would say what a model that knows nothing gets")
        result = self.result()
        for name, value in self.expected.items():
            assert name in result.metrics, f"there is no metric {name!r}, but {', '.join(result.metrics)}"
            found = result.metrics[name][0]
            assert math.isclose(found, value, rel_tol=1e-3, abs_tol=1e-5), (
                f"{name} of a model that knows nothing is {found:.5f}; {value:.5f} is expected"
            )

    def test_the_same_model_gets_the_same_score(self) -> None:
        """Catches an evaluation that is drawn anew each time, so that no two models can be compared."""
        first, second = dict(self.result().metrics), dict(self.result().metrics)
        assert first == second, f"two evaluations of one model give {first} and {second}: draw with a seed of its own"

    def test_the_model_stays_as_it_is(self) -> None:
        """Catches an evaluation that trains: train mode left on, gradients kept, weights changed."""
        model = self.model()
        before = copy.deepcopy(model.state_dict())
        random = torch.get_rng_state()
        self.result(model)
        assert not model.training, "it leaves the model in train mode: it came in eval mode, leave it so"
        assert all(p.grad is None for p in model.parameters()), "it leaves gradients: evaluate under inference_mode"
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), (
            "it changes the model's weights"
        )
        assert torch.equal(random, torch.get_rng_state()), (
            "it draws from torch's global generator: use a torch.Generator of its own, or Sampling(seed=...)"
        )

    def test_progress_goes_forward(self) -> None:
        """Catches a counter that stands still, runs backwards or beyond its end."""
        calls: list[tuple[int, int]] = []
        self.result(progress=lambda done, total, what="": calls.append((done, total)))
        assert calls, "progress(done, total) is never called: a user sees nothing for minutes"
        assert all(done <= total for done, total in calls), f"progress says {max(calls)} (done, total)"
        assert [done for done, _ in calls] == sorted(done for done, _ in calls), "progress runs backwards"

    def test_two_processes_get_the_same_score(self) -> None:
        """Catches metrics of a share: means that are averaged over ranks, not sums and counts. Only where slow."""
        if not self.slow:
            raise SkipTest("takes ten seconds: slow = True in the test class, or `pealm plugins check --slow`")
        task = {"spec": self.entry.name, "config": dict(self.config), "trained_on": dict(self.trained_on)}
        task["texts"] = list(self.texts)
        one = {name: list(pair) for name, pair in self.result().metrics.items()}
        for rank, metrics in enumerate(on_ranks(2, "pealm_core.testing.ranks:evaluate", task)):
            for name, pair in one.items():
                close = (math.isclose(*x, rel_tol=1e-6, abs_tol=1e-9) for x in zip(pair, metrics[name], strict=True))
                assert all(close), (
                    f"{name} is {pair} in one process, and {metrics[name]} on rank {rank} of two: pealm_core.score "
                    f"gives all scores on every rank; what you score yourself, sum over ranks and divide once"
                )
