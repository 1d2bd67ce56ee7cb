"""The plugin's records."""

from pealm_core import FormatSpec, StrategySpec, hookimpl


@hookimpl
def pealm_strategies() -> StrategySpec:
    """Register the strategy."""
    return StrategySpec(
        name="fsdp",
        summary="Parameters, gradients and optimizer state are sharded over the processes (FSDP2)",
        config="pealm_fsdp.config:FSDPConfig",
        factory="pealm_fsdp.strategy:FullyShard",
    )


@hookimpl
def pealm_formats() -> FormatSpec:
    """Register the sharded checkpoints, for `pealm convert --from sharded`."""
    return FormatSpec(
        name="sharded",
        summary="Checkpoints of --strategy fsdp --strategy.checkpoints sharded",
        importer="pealm_fsdp.importer:to_full",
        detect="pealm_fsdp.importer:detect",
    )
