"""The core's own plugin, registered like any other: what training uses by default. And the names of its commands."""

from collections.abc import Iterator

from pealm_core.contract.hookspecs import hookimpl
from pealm_core.contract.specs import ObjectiveSpec, OptimizerSpec, ScheduleSpec, StrategySpec

# name → (module:command, the line in `pealm --help`); modules outside of the core are distributions of their own
COMMANDS = {
    "train": ("pealm_core.cli.train:train", "Train a model."),
    "sample": ("pealm_core.cli.sample:sample", "Generate text."),
    "eval": ("pealm_evals.command:evaluate", "Evaluate a model."),
    "prepare": ("pealm_data.prepare:prepare", "Download what a dataset or evaluator needs."),
    "convert": ("pealm_convert.command:convert", "Convert a checkpoint to another precision or format."),
    "clean": ("pealm_clean.command:clean", "Remove runs, cached tokens and leftovers."),
    "new-plugin": ("pealm_testing.new_plugin:new_plugin", "Create a plugin package from a template."),
    "plugins": ("pealm_core.cli.plugins:plugins", "List the installed plugins."),
}


@hookimpl
def pealm_optimizers() -> Iterator[OptimizerSpec]:
    """Register AdamW, the default."""
    yield OptimizerSpec(
        name="adamw",
        summary="AdamW, fused if the device supports it; weight decay on matrices only",
        config="pealm_core.training.adamw:AdamWConfig",
        factory="pealm_core.training.adamw:build",
    )


@hookimpl
def pealm_schedules() -> Iterator[ScheduleSpec]:
    """Register the learning-rate schedules; cosine is the default."""
    module = "pealm_core.training.learning_rate"
    cosine, constant = "Half a cosine, from the peak to min-lr-ratio", "The peak learning rate to the end"
    yield ScheduleSpec(name="cosine", summary=cosine, config=f"{module}:CosineConfig", factory=f"{module}:cosine")
    yield ScheduleSpec(name="constant", summary=constant, factory=f"{module}:constant")


@hookimpl
def pealm_objectives() -> ObjectiveSpec:
    """Register the default objective."""
    return ObjectiveSpec(
        name="next-token",
        summary="Cross-entropy of the next token",
        factory="pealm_core.training.objective:NextToken",
    )


@hookimpl
def pealm_strategies() -> StrategySpec:
    """Register the default strategy."""
    return StrategySpec(
        name="ddp",
        summary="Data parallel: a copy of the model in each process (DistributedDataParallel)",
        config="pealm_core.config.settings:DataParallelConfig",
        factory="pealm_core.training.ddp:DataParallel",
    )
