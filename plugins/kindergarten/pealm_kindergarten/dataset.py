"""The stories as a dataset, one document a story, its end mark a newline; and questions about them."""

import random
from collections.abc import Iterator

from pealm_core import CHAT_LAYOUT, Segment, chat_document
from pealm_kindergarten.config import QuestionsConfig, StoriesConfig
from pealm_kindergarten.corpus import Split, entropy_floor, stories, tellings
from pealm_kindergarten.grammar import END
from pealm_kindergarten.questions import Question, ask, conversation


class Kindergarten:
    """Stories that the grammar tells from a seed; those for validation are never among those for training."""

    def __init__(self, config: StoriesConfig | None = None) -> None:
        self.config = config or StoriesConfig()

    @property
    def entropy_floor(self) -> float:
        """Nats per character that no model can beat."""
        return entropy_floor()

    def documents(self, split: str) -> Iterator[str]:
        """The stories of "train" or "val"."""
        if split == "train":
            told = stories("train", self.config.seed, self.config.stories)
        else:
            told = stories("val", self.config.seed, self.config.stories // 10)
        return (story + END for story in told)


class Questions:
    """Conversations: a story with one to three questions, whose answers are learned."""

    chat = CHAT_LAYOUT
    packed = True

    def __init__(self, config: QuestionsConfig | None = None) -> None:
        self.config = config or QuestionsConfig()

    def documents(self, split: str) -> Iterator[list[Segment]]:
        """Yield the conversations of "train" or "val"."""
        n = self.config.stories if split == "train" else self.config.stories // 10
        for messages, _ in conversations(
            "train" if split == "train" else "val", self.config.seed, n, self.config.questions
        ):
            yield chat_document(messages)


def conversations(
    split: Split, seed: int, n: int, most: int
) -> Iterator[tuple[list[dict[str, str]], list[Question]]]:
    """Yield n conversations of one to `most` questions, as messages and with their questions."""
    for index, story in tellings(split, seed, n):
        rng = random.Random(f"questions {seed} {index}")
        asked = ask(story, rng, 1 + int(rng.random() * most))
        yield list(conversation(story, asked)), asked
