"""What pealm-fineweb provides."""

from collections.abc import Iterator

from pealm_core import DatasetSpec, hookimpl


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """The dataset `fineweb`."""
    yield DatasetSpec(
        name="fineweb",
        summary="FineWeb-Edu's 10 billion GPT-2 tokens, once `pealm prepare fineweb` has fetched them",
        config="pealm_fineweb.config:FinewebConfig",
        factory="pealm_fineweb.dataset:Fineweb",
        value="path",
        shards=True,
    )
