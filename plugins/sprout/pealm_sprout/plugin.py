"""What pealm-sprout provides."""

from collections.abc import Iterator

from pealm_core import ModelSpec, hookimpl


@hookimpl
def pealm_models() -> Iterator[ModelSpec]:
    """The model `sprout`."""
    yield ModelSpec(
        name="sprout",
        summary="A modern small transformer that learns fast",
        config="pealm_sprout.config:SproutConfig",
        factory="pealm_sprout.model:Sprout",
        tokenizer="char",
        presets={
            "cpu": {},
            "124m": {"block_size": 1024, "n_layer": 12, "n_head": 6, "n_embd": 768},
        },
        recipe={
            "train": {"steps": 2000, "batch_size": 16, "lr": 0.02, "warmup_steps": 20, "min_lr_ratio": 0.0},
            "optimizer": {"name": "muon"},
        },
    )
