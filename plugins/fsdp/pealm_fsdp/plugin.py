"""The plugin's records."""

from pealm_core import StrategySpec, hookimpl


@hookimpl
def pealm_strategies() -> StrategySpec:
    """Register the strategy."""
    return StrategySpec(
        name="fsdp",
        summary="Parameters, gradients and optimizer state are sharded over the processes (FSDP2)",
        config="pealm_fsdp.config:FSDPConfig",
        factory="pealm_fsdp.strategy:FullyShard",
    )
