"""What pealm-char-bigram provides."""

from collections.abc import Iterator

from pealm_core import ModelSpec, hookimpl


@hookimpl
def pealm_models() -> Iterator[ModelSpec]:
    """The model `char-bigram`."""
    yield ModelSpec(
        name="char-bigram",
        summary="A table of what follows each character",
        config="pealm_char_bigram.config:BigramConfig",
        factory="pealm_char_bigram.model:Bigram",
        tokenizer="char",
        # About two epochs of tinyshakespeare. Rows of rare characters see few updates, so the rate is high.
        recipe={
            "train": {
                "steps": 980,
                "batch_size": 32,
                "lr": 0.1,
                "warmup_steps": 0,
                "grad_clip": 0.0,
            },
            "schedule": {"name": "cosine", "min_lr_ratio": 0.0},
            "optimizer": {"weight_decay": 0.0, "beta2": 0.99},
        },
    )
