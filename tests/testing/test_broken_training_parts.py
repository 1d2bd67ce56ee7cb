"""Every check for schedules, objectives, strategies and adapters fails for a plugin with one broken line."""

from collections.abc import Callable
from pathlib import Path
from unittest import SkipTest

import pytest

from pealm_core import use_plugin
from pealm_testing import (
    AdapterConformance,
    Conformance,
    ConformanceError,
    ObjectiveConformance,
    ScheduleConformance,
    StrategyConformance,
)
from pealm_testing.new_plugin import fill, in_one_file

MASKED = '''
import torch
from pealm_core import IGNORE, ObjectiveSpec, hookimpl, noise

class Masked:
    """Predicts tokens that are replaced by a special one."""

    def __init__(self, model, tokenizer):
        self.mask = tokenizer.specials["<|mask|>"]

    def prepare(self, batch, seed):
        idx = batch["idx"].clone()
        hidden = torch.from_numpy(noise(batch["sample"], idx.shape[1], seed)) < 0.5
        hidden[:, 0] = True
        targets = torch.where(hidden, idx, IGNORE)
        idx[hidden] = self.mask
        return {**batch, "idx": idx, "targets": targets}

    def loss(self, model, batch):
        return model(batch["idx"], batch["targets"])[1], {}

    def validate(self, model, batch):
        return model(batch["idx"], batch["targets"])[1]

@hookimpl
def pealm_objectives():
    return ObjectiveSpec(name="it-objective", summary="Masked tokens", factory=Masked, specials=("<|mask|>",))
'''


class Schedule(ScheduleConformance):
    spec = "it-schedule"


class Objective(ObjectiveConformance):
    spec = "it-objective"


class Strategy(StrategyConformance):
    spec = "it-strategy"


class Adapter(AdapterConformance):
    spec = "it-adapter"


SOURCES = {
    kind: in_one_file(fill(kind, f"it-{kind}", "0.1.0")[0], kind)
    for kind in ("schedule", "objective", "strategy", "adapter")
}
SOURCES["masked"] = MASKED
KITS = {"schedule": Schedule, "objective": Objective, "masked": Objective, "strategy": Strategy, "adapter": Adapter}

# kind, check, the line, broken, what the message says
CASES = [
    ("schedule", "every_factor_is_a_number_in_range", "low + (1", "1 + low + (1", "set largest = ..."),
    (
        "schedule",
        "every_factor_is_a_number_in_range",
        "low + (1 - low) *",
        "0 * step / progress if progress else float('nan') *",
        "is nan",
    ),
    ("schedule", "every_factor_is_a_number_in_range", "return low", "return str(low), low", "not a number"),
    (
        "schedule",
        "it_is_a_pure_function",
        "        cycles, low =",
        "        self.n = getattr(self, 'n', 0) + 1\n        return 1 / self.n\n        cycles, low =",
        "may depend on its arguments and settings only",
    ),
    (
        "objective",
        "the_loss_trains_the_model",
        '(batch["idx"])[0].flatten(0, 1)',
        '(batch["idx"])[0].detach().flatten(0, 1).requires_grad_()',
        "no parameter of the model has a gradient",
    ),
    (
        "objective",
        "the_loss_trains_the_model",
        "return loss, {",
        "return loss[None], {",
        "not a finite scalar tensor",
    ),
    (
        "objective",
        "the_loss_trains_the_model",
        "return loss, {",
        "return loss\n        return {",
        "loss must return (loss, metrics)",
    ),
    (
        "objective",
        "the_loss_trains_the_model",
        "return loss, {",
        "return loss, {'logits': logits} or {",
        "the metric 'logits'",
    ),
    (
        "objective",
        "it_calls_the_model_once",
        "        logits = ",
        "        model(batch['idx'])\n        logits = ",
        "calls the model 2 times",
    ),
    (
        "objective",
        "weight_and_loss_agree",
        "ignore_index=IGNORE)\n        return",
        "ignore_index=IGNORE, reduction='sum')\n        return",
        "loss must be the mean over the targets that weight counts",
    ),
    (
        "masked",
        "weight_and_loss_agree",
        "    def loss(",
        "    def weight(self, batch):\n        return batch['idx'].numel()\n\n    def loss(",
        "must be the mean over the targets",
    ),
    (
        "masked",
        "a_batch_without_scored_targets_is_finite",
        "[1], {}",
        "[1] + (0 if (batch['targets'] != IGNORE).sum() > 1 else float('nan')), {}",
        "not a finite scalar",
    ),
    (
        "masked",
        "prepare_does_not_depend_on_the_processes",
        'torch.from_numpy(noise(batch["sample"], idx.shape[1], seed))',
        "torch.rand(idx.shape)",
        "draw with pealm_core.noise",
    ),
    (
        "masked",
        "prepare_does_not_depend_on_the_processes",
        'batch["sample"], idx',
        "torch.arange(len(idx)), idx",
        "batch['sample'] and the seed only",
    ),
    ("masked", "validation_is_a_mean", "[1]\n\n@hookimpl", "[0]\n\n@hookimpl", "not a finite scalar tensor"),
    ("masked", "validation_is_a_mean", "[1]\n\n@hookimpl", "[1] + torch.rand(())\n\n@hookimpl", "for one batch"),
    (
        "strategy",
        "one_process_trains_as_without_it",
        "    collective = False",
        "    shared = False",
        "it has no `collective`",
    ),
    (
        "strategy",
        "one_process_trains_as_without_it",
        "get_total_norm([p.grad",
        "get_total_norm([2 * p.grad",
        "grad_norm is",
    ),
    (
        "strategy",
        "its_full_state_restores_a_run",
        "return model.state_dict(), opt",
        "return {f'module.{k}': v for k, v in model.state_dict().items()}, opt",
        "use the model's own names",
    ),
    (
        "strategy",
        "its_full_state_restores_a_run",
        "optimizer.load_state_dict(state)",
        "pass",
        "the next steps differ",
    ),
    (
        "adapter",
        "a_part_is_trainable",
        "            layer.change =",
        "            continue\n            layer.change =",
        "nothing could be trained",
    ),
    (
        "adapter",
        "a_part_is_trainable",
        "self.hooks.append(layer.register_forward_hook(layer.change))",
        "pass",
        "has no gradient",
    ),
    ("adapter", "merging_keeps_the_logits", "self.scale * self.b @", "self.b @", "merge changes the logits"),
    (
        "adapter",
        "merging_keeps_the_logits",
        "            del layer.change",
        "            pass",
        "other names than the base's",
    ),
    (
        "adapter",
        "what_is_trainable_is_all_that_is_needed",
        "self.a = nn.Parameter(",
        "self.a = (",
        "keep what is learned",
    ),
]


def run(kit: type[Conformance], check: str) -> None:
    try:
        getattr(kit(), f"test_{check}")()
    except SkipTest as reason:
        raise AssertionError(f"skipped: {reason}") from None


@pytest.mark.parametrize(("kind", "check", "line", "broken", "words"), CASES)
def test_a_broken_line_fails_its_check(
    kind: str, check: str, line: str, broken: str, words: str, local: Callable[..., Path]
) -> None:
    source = SOURCES[kind]
    assert line in source
    use_plugin(local("it_breaks", source.replace(line, broken, 1)))
    with pytest.raises(ConformanceError) as error:
        run(KITS[kind], check)
    assert words in str(error.value)


@pytest.mark.parametrize("kind", KITS)
def test_the_same_plugin_unbroken_passes(kind: str, local: Callable[..., Path]) -> None:
    use_plugin(local("it_works", SOURCES[kind]))
    for check in {check for of, check, *_ in CASES if of == kind}:
        run(KITS[kind], check)
    tests = {name.removeprefix("test_") for name in vars(KITS[kind].__base__) if name.startswith("test_")}
    kinds = {"objective", "masked"} if kind in ("objective", "masked") else {kind}
    assert tests == {check for of, check, *_ in CASES if of in kinds}
