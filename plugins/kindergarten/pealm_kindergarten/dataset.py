"""The stories as a dataset, one document a story, its end mark a newline; and questions about them."""

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from pealm_core import CHAT_LAYOUT, Segment, chat_document
from pealm_kindergarten.config import QuestionsConfig, StoriesConfig
from pealm_kindergarten.corpus import KINDERGARTEN, SECOND_GRADE, Split, tellings
from pealm_kindergarten.parts import END, Derivation
from pealm_kindergarten.questions import Question, ask, conversation


class Kindergarten:
    """Stories that the grammar tells from a seed; those for validation are never among those for training."""

    grade = KINDERGARTEN

    def __init__(self, config: StoriesConfig | None = None) -> None:
        self.config = config or StoriesConfig()

    @property
    def entropy_floor(self) -> float:
        """Nats per character that no model can beat."""
        return self.grade.entropy_floor()

    def documents(self, split: str) -> Iterator[str]:
        """The stories of "train" or "val"."""
        if split == "train":
            told = self.grade.stories("train", self.config.seed, self.config.stories)
        else:
            told = self.grade.stories("val", self.config.seed, self.config.stories // 10)
        return (story + END for story in told)


class SecondGrade(Kindergarten):
    """Longer stories, in which things change hands and numbers change."""

    grade = SECOND_GRADE


class Questions:
    """Conversations: a story with questions, whose answers are learned, or all of it; and some stories alone."""

    chat = CHAT_LAYOUT
    packed = True

    def __init__(self, config: QuestionsConfig | None = None) -> None:
        self.config = config or QuestionsConfig()

    def documents(self, split: str) -> Iterator[list[Segment]]:
        """Yield the conversations of "train" or "val", and for training the stories that are told again."""
        config = self.config
        if split != "train":
            for messages, _ in conversations("val", config.seed, config.stories // 10, config.questions):
                yield self._document(messages)
            return
        for index, story in tellings("train", config.seed, config.stories):
            if random.Random(f"retold {config.seed} {index}").random() < config.retold:
                yield [Segment(story.text + END)]
            else:
                yield self._document(conversation(story, _asked(story, config.seed, index, config.questions)))

    def _document(self, messages: Iterable[Mapping[str, str]]) -> list[Segment]:
        document = chat_document(messages)
        if self.config.learn == "everything":
            return [replace(part, learn=part.learn or part.special is None) for part in document]
        return document


def conversations(
    split: Split, seed: int, n: int, most: int
) -> Iterator[tuple[list[dict[str, str]], list[Question]]]:
    """Yield n conversations of one to `most` questions, as messages and with their questions."""
    for index, story in tellings(split, seed, n):
        asked = _asked(story, seed, index, most)
        yield list(conversation(story, asked)), asked


def _asked(story: Derivation, seed: int, index: int, most: int) -> list[Question]:
    rng = random.Random(f"questions {seed} {index}")
    return ask(story, rng, 1 + int(rng.random() * most))
