"""What pealm-multiple-choice provides."""

from collections.abc import Iterator

from pealm_core import EvaluatorSpec, hookimpl


@hookimpl
def pealm_evaluators() -> Iterator[EvaluatorSpec]:
    """Register the evaluation `multiple-choice`."""
    yield EvaluatorSpec(
        name="multiple-choice",
        summary="Your own multiple-choice questions (--eval.file questions.jsonl)",
        config="pealm_multiple_choice.config:MultipleChoiceConfig",
        factory="pealm_multiple_choice.evaluator:MultipleChoice",
    )
