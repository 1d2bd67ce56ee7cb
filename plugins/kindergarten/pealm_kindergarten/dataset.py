"""The stories as a dataset: one document a story, its end mark a newline."""

from collections.abc import Iterator

from pealm_kindergarten.config import StoriesConfig
from pealm_kindergarten.corpus import entropy_floor, stories
from pealm_kindergarten.grammar import END


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
