"""What pealm-conversations provides."""

from collections.abc import Iterator

from pealm_core import DatasetSpec, hookimpl


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """The dataset `conversations`."""
    yield DatasetSpec(
        name="conversations",
        summary="Conversations, one a line: OpenAI's messages, ShareGPT's conversations, Alpaca's instructions",
        config="pealm_conversations.config:ConversationsConfig",
        factory="pealm_conversations.dataset:Conversations",
        value="path",
    )
