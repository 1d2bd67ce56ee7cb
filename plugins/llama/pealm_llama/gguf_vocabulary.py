"""The tokenizer in a GGUF file as Hugging Face's files: byte-level BPE, as SmolLM2, Qwen and Llama 3 have it."""

from pathlib import Path
from typing import Any

from pealm_core import UserError
from pealm_llama.files import write_json
from pealm_llama.gguf_file import GGUF
from pealm_llama.vocabulary import FLAGS, SETTINGS, TEMPLATE, VOCABULARY

CONTROL, USER_DEFINED = 3, 4  # types of tokens: special, and whole pieces of text
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
WORDS = {**BYTES, "use_regex": True}  # GPT-2's pattern
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _cut(digits: str) -> list[dict[str, Any]]:
    pattern = {"Regex": PATTERN % digits}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    return [split, {**BYTES, "use_regex": False}]


# How a text is cut before BPE, by the name that llama.cpp gives it (`tokenizer.ggml.pre`).
CUTS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [WORDS],
    "default": [WORDS],
    "smollm": [{"type": "Digits", "individual_digits": True}, WORDS],
    "qwen2": _cut(""),
    "llama-bpe": _cut("{1,3}"),
}


def write_vocabulary(file: GGUF, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template. Raises UserError for another kind."""
    kind, cut = file.get("tokenizer.ggml.model"), file.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or cut not in (*CUTS,):
        raise UserError(
            f"{file.path}: pealm can't read its tokenizer, {kind!r:.40} with {cut!r:.40}; give the model's "
            f"tokenizer.json: --tokenizer hf --tokenizer.path FILE"
        )
    tokens, merges = file.get("tokenizer.ggml.tokens"), file.get("tokenizer.ggml.merges", [])
    types = file.get("tokenizer.ggml.token_type", [])
    if not isinstance(tokens, list) or not isinstance(types, list) or len(types) not in (0, len(tokens)):
        raise UserError(f"{file.path}: its tokenizer is damaged: {len(types)} types for its tokens")
    added = [
        {"id": i, "content": tokens[i], **FLAGS, "special": type_ == CONTROL}
        for i, type_ in enumerate(types)
        if type_ in (CONTROL, USER_DEFINED)
    ]
    model = {
        "type": "BPE",
        "ignore_merges": cut == "llama-bpe",
        "vocab": {token: i for i, token in enumerate(tokens)},
    }
    whole = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if cut == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": CUTS[cut]},
        "decoder": {**WORDS},
        "model": {**model, "merges": merges},
    }
    write_json(folder / VOCABULARY, whole)
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name in ("bos", "eos"):
        i = file.get(f"tokenizer.ggml.{name}_token_id")
        if type(i) is int and 0 <= i < len(tokens):
            settings[f"{name}_token"] = tokens[i]
    write_json(folder / SETTINGS, settings)
    if isinstance(template := file.get("tokenizer.chat_template"), str):
        (folder / TEMPLATE).write_text(template, encoding="utf-8")
