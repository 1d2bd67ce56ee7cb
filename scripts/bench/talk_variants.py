"""A local plugin for ablate.py: `kindergarten-questions` with every token learned, and in windows instead of rows."""

from collections.abc import Iterator
from dataclasses import replace

from pealm_core import DatasetSpec, Segment, hookimpl
from pealm_kindergarten.config import QuestionsConfig
from pealm_kindergarten.dataset import Questions


class EveryToken(Questions):
    """The user's turns and all marks are learned as well."""

    def documents(self, split: str) -> Iterator[list[Segment]]:
        """Yield the conversations without their masks."""
        return ([replace(part, learn=True) for part in document] for document in super().documents(split))


class Windows(Questions):
    """Slices of one stream: most begin and end within a conversation."""

    packed = False


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """The datasets `every-token` and `windows`."""
    for name, factory in (("every-token", EveryToken), ("windows", Windows)):
        yield DatasetSpec(name=name, summary="For ablate.py", config=QuestionsConfig, factory=factory, value="seed")
