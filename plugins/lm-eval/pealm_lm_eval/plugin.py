"""What pealm-lm-eval provides."""

from collections.abc import Iterator

from pealm_core import EvaluatorSpec, hookimpl


@hookimpl
def pealm_evaluators() -> Iterator[EvaluatorSpec]:
    """Register the evaluation `lm-eval`."""
    yield EvaluatorSpec(
        name="lm-eval",
        summary="Tasks of EleutherAI's lm-evaluation-harness (--eval.tasks arc_easy,piqa)",
        config="pealm_lm_eval.config:LMEvalConfig",
        factory="pealm_lm_eval.evaluator:LMEval",
    )
