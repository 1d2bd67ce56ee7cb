"""What pealm-char provides."""

from collections.abc import Iterator

from pealm_core import TokenizerSpec, hookimpl


@hookimpl
def pealm_tokenizers() -> Iterator[TokenizerSpec]:
    """The tokenizer `char`."""
    yield TokenizerSpec(
        name="char",
        summary="One token per character of the training text",
        config="pealm_char.config:CharConfig",
        factory="pealm_char.tokenizer:CharTokenizer",
    )
