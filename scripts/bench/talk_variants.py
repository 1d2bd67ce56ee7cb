"""A local plugin for ablate.py: `kindergarten-questions` in windows instead of packed rows."""

from collections.abc import Iterator

from pealm_core import DatasetSpec, hookimpl
from pealm_kindergarten.config import QuestionsConfig
from pealm_kindergarten.dataset import Questions


class Windows(Questions):
    """Slices of one stream: most begin and end within a conversation."""

    packed = False


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """The dataset `windows`."""
    yield DatasetSpec(name="windows", summary="For ablate.py", config=QuestionsConfig, factory=Windows, value="seed")
