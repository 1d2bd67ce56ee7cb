"""The settings of the dataset and of the evaluation."""

from dataclasses import dataclass
from typing import Literal

from pealm_core import setting


@dataclass(frozen=True)
class StoriesConfig:
    """Which stories, and how many."""

    seed: int = setting(1, "which stories", at_least=0)
    stories: int = setting(60_000, "training stories; a tenth as many are for validation", at_least=10)


@dataclass(frozen=True)
class QuestionsConfig:
    """Which stories are asked about, and how many."""

    seed: int = setting(1, "which stories", at_least=0)
    stories: int = setting(20_000, "stories to train on; a tenth as many are for validation", at_least=10)
    questions: int = setting(3, "most questions about a story", at_least=1, at_most=5)
    retold: float = setting(0.3, "fraction of stories that are learned without questions", at_least=0, at_most=0.9)
    learn: Literal["answers", "everything"] = setting(
        "answers", "what is learned of a conversation; everything: the text of the user as well"
    )


@dataclass(frozen=True)
class AnsweringConfig:
    """How much to evaluate."""

    questions: int = setting(400, "answerable questions; a tenth more are not", at_least=2)


@dataclass(frozen=True)
class TellingConfig:
    """How much to evaluate."""

    stories: int = setting(200, "stories that the model tells, and as many that it is scored on", at_least=2)
    temperature: float = setting(1.0, "how the stories are drawn", above=0)
    seed: int = setting(0, "seed of the telling", at_least=0)
