"""What pealm-hf-datasets provides."""

from collections.abc import Iterator

from pealm_core import DatasetSpec, hookimpl


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """Register the dataset `hf-dataset`."""
    yield DatasetSpec(
        name="hf-dataset",
        summary="A dataset of the Hugging Face Hub, streamed, or a local folder of one",
        config="pealm_hf_datasets.config:HFDatasetConfig",
        factory="pealm_hf_datasets.dataset:HFDataset",
        value="dataset",
    )
