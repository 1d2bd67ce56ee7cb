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
            "tiny": {
                "block_size": 64,
                "n_layer": 2,
                "n_embd": 64,
                "ngram": 2,
                "optimizer": {"name": "muon", "weight_decay": 0.0, "adam_lr": 0.02},
            },
            "reader": {
                "block_size": 160,
                "n_layer": 2,
                "n_head": 2,
                "n_embd": 64,
                "ngram": 2,
                "rotary_fraction": 0.5,
                "smear": 16,
                "train": {"batch_size": 13},
                "optimizer": {"name": "muon", "weight_decay": 0.0, "adam_lr": 0.02},
            },
            "cpu": {
                "block_size": 128,
                "ngram": 5,
                "ngram_rows": 16384,
                "ngram_dropout": 0.2,
                "ahead": 0.3,
                "train": {"batch_size": 16},
                "schedule": {"name": "linear", "min_lr_ratio": 0.0},
                "optimizer": {"name": "muon", "adam_decay": 0.3},
            },
            "laptop": {
                "block_size": 256,
                "n_layer": 5,
                "n_head": 5,
                "n_embd": 160,
                "dropout": 0.1,
                "train": {"batch_size": 16},
            },
            "chat": {
                "train": {"epochs": 2, "lr": 0.01},
                "optimizer": {"name": "muon", "weight_decay": 0.0, "adam_lr": 0.01},
            },
            "124m": {"block_size": 1024, "n_layer": 12, "n_head": 6, "n_embd": 768},
        },
        depth="pealm_sprout.config:depth_preset",
        recipe={
            "train": {
                "steps": 1000,
                "batch_size": 32,
                "lr": 0.02,
                "warmup_steps": 20,
            },
            "schedule": {"name": "wsd", "min_lr_ratio": 0.0},
            "optimizer": {"name": "muon", "weight_decay": 0.3, "adam_lr": 0.005},
        },
    )
