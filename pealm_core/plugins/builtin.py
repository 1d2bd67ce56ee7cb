"""The core's own plugin, registered like any other: the default optimizer."""

from collections.abc import Iterator

from pealm_core.contract.hookspecs import hookimpl
from pealm_core.contract.specs import OptimizerSpec


@hookimpl
def pealm_optimizers() -> Iterator[OptimizerSpec]:
    """Register AdamW, the default."""
    yield OptimizerSpec(
        name="adamw",
        summary="AdamW, fused if the device supports it; weight decay on matrices only",
        config="pealm_core.training.adamw_config:AdamWConfig",
        factory="pealm_core.training.adamw:build",
    )
