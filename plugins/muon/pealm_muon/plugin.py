"""What pealm-muon provides."""

from collections.abc import Iterator

from pealm_core import OptimizerSpec, hookimpl


@hookimpl
def pealm_optimizers() -> Iterator[OptimizerSpec]:
    """The optimizer `muon`."""
    yield OptimizerSpec(
        name="muon",
        summary="Muon for matrices, AdamW for the rest",
        config="pealm_muon.config:MuonConfig",
        factory="pealm_muon.optimizer:build",
    )
