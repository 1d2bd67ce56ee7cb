"""What pealm-hellaswag provides."""

from collections.abc import Iterator

from pealm_core import EvaluatorSpec, hookimpl


@hookimpl
def pealm_evaluators() -> Iterator[EvaluatorSpec]:
    """The evaluation `hellaswag`, the one that `pealm eval` takes where none is named."""
    yield EvaluatorSpec(
        name="hellaswag",
        summary="HellaSwag: which of four endings follows a context?",
        config="pealm_hellaswag.config:HellaSwagConfig",
        factory="pealm_hellaswag.evaluator:HellaSwag",
        default=True,
    )
