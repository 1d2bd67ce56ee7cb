"""What pealm-tinyshakespeare provides."""

from collections.abc import Iterator

from pealm_core import DatasetSpec, hookimpl


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """The dataset `tinyshakespeare`."""
    yield DatasetSpec(
        name="tinyshakespeare",
        summary="A million characters of Shakespeare, downloaded once (or a local copy)",
        config="pealm_tinyshakespeare.config:TinyshakespeareConfig",
        factory="pealm_tinyshakespeare.dataset:Tinyshakespeare",
        value="path",
    )
