"""What pealm-bpe provides."""

from collections.abc import Iterator

from pealm_core import TokenizerSpec, hookimpl


@hookimpl
def pealm_tokenizers() -> Iterator[TokenizerSpec]:
    """The tokenizer `bpe`."""
    yield TokenizerSpec(
        name="bpe",
        summary="Byte-pair encoding learned from the training text",
        config="pealm_bpe.config:BPEConfig",
        factory="pealm_bpe.tokenizer:BPETokenizer",
    )
