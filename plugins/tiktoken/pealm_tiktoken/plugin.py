"""What pealm-tiktoken provides."""

from collections.abc import Iterator

from pealm_core import TokenizerSpec, hookimpl


@hookimpl
def pealm_tokenizers() -> Iterator[TokenizerSpec]:
    """The tokenizer `tiktoken`."""
    yield TokenizerSpec(
        name="tiktoken",
        summary="OpenAI's byte-pair encodings: GPT-2's 50,257 tokens, or a newer one",
        config="pealm_tiktoken.config:TiktokenConfig",
        factory="pealm_tiktoken.tokenizer:TiktokenTokenizer",
    )
