"""What pealm-kindergarten provides."""

from collections.abc import Iterator

from pealm_core import DatasetSpec, EvaluatorSpec, hookimpl


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """The datasets `kindergarten`, `kindergarten-questions` and `second-grade`."""
    yield DatasetSpec(
        name="kindergarten",
        summary="Short stories from a grammar with known entropy (SEED: which ones)",
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
        summary="Longer stories with sums and things that change hands, with known entropy (SEED: which ones)",
        config="pealm_kindergarten.config:StoriesConfig",
        factory="pealm_kindergarten.dataset:SecondGrade",
        value="seed",
    )


@hookimpl
def pealm_evaluators() -> Iterator[EvaluatorSpec]:
    """The evaluations `kindergarten`, `kindergarten-questions` and `second-grade`."""
    yield EvaluatorSpec(
        name="kindergarten",
        summary="A model's stories: do they make sense, are they new and varied, how near is the loss to the floor?",
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
        summary="As kindergarten, for the second grade's stories, in which a model has to add and keep track",
        config="pealm_kindergarten.config:TellingConfig",
        factory="pealm_kindergarten.evaluator:TellingSecondGrade",
    )
