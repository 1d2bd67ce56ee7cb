"""What pealm-kindergarten provides."""

from collections.abc import Iterator

from pealm_core import DatasetSpec, EvaluatorSpec, hookimpl


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """The dataset `kindergarten`."""
    yield DatasetSpec(
        name="kindergarten",
        summary="Little stories from a grammar that knows their entropy (SEED: which ones)",
        config="pealm_kindergarten.config:StoriesConfig",
        factory="pealm_kindergarten.dataset:Kindergarten",
        value="seed",
    )


@hookimpl
def pealm_evaluators() -> Iterator[EvaluatorSpec]:
    """The evaluation `kindergarten`."""
    yield EvaluatorSpec(
        name="kindergarten",
        summary="Stories that a model tells: are they whole, new, varied, and how near is its loss to the floor?",
        config="pealm_kindergarten.config:TellingConfig",
        factory="pealm_kindergarten.evaluator:Telling",
    )
