"""What pealm-text provides."""

from collections.abc import Iterator

from pealm_core import DatasetSpec, hookimpl


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """The dataset `text`."""
    yield DatasetSpec(
        name="text",
        summary="A text file, a folder of text files, or a glob",
        config="pealm_text.config:TextConfig",
        factory="pealm_text.dataset:TextDataset",
        value="path",
    )
