"""What pealm-kindergarten provides."""

from collections.abc import Iterator

from pealm_core import DatasetSpec, EvaluatorSpec, hookimpl


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """The datasets `kindergarten`, `kindergarten-questions` and `second-grade`."""
    yield DatasetSpec(
        name="kindergarten",
        summary="Little stories from a grammar that knows their entropy (SEED: which ones)",
        config="pealm_kindergarten.config:StoriesConfig",
        factory="pealm_kindergarten.dataset:Kindergarten",
        value="seed",
    )
    yield DatasetSpec(
        name="kindergarten-questions",
        summary="Conversations: a story, then questions about it and their answers (SEED: which stories)",
        config="pealm_kindergarten.config:QuestionsConfig",
        factory="pealm_kindergarten.dataset:Questions",
        value="seed",
    )
    yield DatasetSpec(
        name="second-grade",
        summary="Longer stories with sums and things that change hands, of known entropy (SEED: which ones)",
        config="pealm_kindergarten.config:StoriesConfig",
        factory="pealm_kindergarten.dataset:SecondGrade",
        value="seed",
    )


@hookimpl
def pealm_evaluators() -> Iterator[EvaluatorSpec]:
    """The evaluations `kindergarten`, `kindergarten-questions` and `second-grade`."""
    yield EvaluatorSpec(
        name="kindergarten",
        summary="Stories that a model tells: are they whole, new, varied, and how near is its loss to the floor?",
        config="pealm_kindergarten.config:TellingConfig",
        factory="pealm_kindergarten.evaluator:Telling",
    )
    yield EvaluatorSpec(
        name="kindergarten-questions",
        summary="Questions about stories that no model was trained on: how many answers are exactly right, by kind?",
        config="pealm_kindergarten.config:AnsweringConfig",
        factory="pealm_kindergarten.answering:Answering",
    )
    yield EvaluatorSpec(
        name="second-grade",
        summary="The same for the stories of the dataset second-grade, in which a model has to add and keep track",
        config="pealm_kindergarten.config:TellingConfig",
        factory="pealm_kindergarten.evaluator:TellingSecondGrade",
    )
