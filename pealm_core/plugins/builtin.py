"""The core's own plugin: what every installation has, registered the way strangers do it."""

from collections.abc import Iterator

from pealm_core.contract.hookspecs import hookimpl
from pealm_core.contract.specs import OptimizerSpec


@hookimpl
def pealm_optimizers() -> Iterator[OptimizerSpec]:
    """AdamW, the trainer's default."""
    yield OptimizerSpec(
        name="adamw",
        summary="AdamW, fused where the device has it; weight decay on matrices only",
        config="pealm_core.training.adamw_config:AdamWConfig",
        factory="pealm_core.training.adamw:build",
    )
