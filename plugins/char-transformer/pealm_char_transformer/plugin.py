"""What pealm-char-transformer provides."""

from collections.abc import Iterator

from pealm_core import ModelSpec, hookimpl


@hookimpl
def pealm_models() -> Iterator[ModelSpec]:
    """The model `char-transformer`."""
    yield ModelSpec(
        name="char-transformer",
        summary="A plain transformer over characters",
        config="pealm_char_transformer.config:TransformerConfig",
        factory="pealm_char_transformer.model:Transformer",
        tokenizer="char",
        # As many characters as nanoGPT's recipe for a CPU sees: 1.536 million. Many small steps at a high rate.
        recipe={
            "train": {"steps": 3000, "batch_size": 4, "lr": 3e-3, "warmup_steps": 100},
            "optimizer": {"beta2": 0.99},
        },
    )
