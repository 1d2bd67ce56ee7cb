"""What pealm-npy-shards provides."""

from collections.abc import Iterator

from pealm_core import DatasetSpec, hookimpl


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """The dataset `npy-shards`."""
    yield DatasetSpec(
        name="npy-shards",
        summary="A folder of token shards: .npy, or .bin and .ds of llm.c, nanoGPT, Megatron and datatrove",
        config="pealm_npy_shards.config:NpyShardsConfig",
        factory="pealm_npy_shards.dataset:NpyShards",
        value="path",
        shards=True,
    )
