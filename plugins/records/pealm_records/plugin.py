"""What pealm-records provides."""

from collections.abc import Iterator

from pealm_core import DatasetSpec, hookimpl


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """Register the dataset `records`."""
    yield DatasetSpec(
        name="records",
        summary="Documents in a column of .jsonl, .csv or .parquet files, also .gz and .zst",
        config="pealm_records.config:RecordsConfig",
        factory="pealm_records.dataset:Records",
        value="path",
    )
