"""What pealm-hf-tokenizer provides."""

from collections.abc import Iterator

from pealm_core import TokenizerSpec, hookimpl


@hookimpl
def pealm_tokenizers() -> Iterator[TokenizerSpec]:
    """The tokenizer `hf`."""
    yield TokenizerSpec(
        name="hf",
        summary="Any tokenizer.json of Hugging Face",
        config="pealm_hf_tokenizer.config:HFConfig",
        factory="pealm_hf_tokenizer.tokenizer:HFTokenizer",
    )
