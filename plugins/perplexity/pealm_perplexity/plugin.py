"""What pealm-perplexity provides."""

from collections.abc import Iterator

from pealm_core import EvaluatorSpec, hookimpl


@hookimpl
def pealm_evaluators() -> Iterator[EvaluatorSpec]:
    """The evaluation `perplexity`."""
    yield EvaluatorSpec(
        name="perplexity",
        summary="Loss, perplexity and bits per byte of a text (--input.text FILE) or of a dataset's val split",
        config="pealm_perplexity.config:PerplexityConfig",
        factory="pealm_perplexity.evaluator:Perplexity",
        input=True,
        default=True,
    )
