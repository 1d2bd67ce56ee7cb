"""What pealm-fineweb provides."""

from collections.abc import Iterator

from pealm_core import DatasetSpec, hookimpl


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """Register the datasets `fineweb` and `fineweb-edu`."""
    yield DatasetSpec(
        name="fineweb",
        summary="FineWeb-Edu's 10 billion GPT-2 tokens (first run `pealm prepare fineweb`)",
        config="pealm_fineweb.config:FinewebConfig",
        factory="pealm_fineweb.dataset:Fineweb",
        value="path",
        shards=True,
    )
    yield DatasetSpec(
        name="fineweb-edu",
        summary="FineWeb-Edu's documents: sample-10BT, sample-100BT or sample-350BT, for any tokenizer",
        config="pealm_fineweb.config:FinewebEduConfig",
        factory="pealm_fineweb.dataset:FinewebEdu",
        value="sample",
    )
