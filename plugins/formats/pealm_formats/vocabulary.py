"""A checkpoint's tokenizer as Hugging Face's files: `hf` as it is, `bpe` with an end of text, tiktoken."""

from pathlib import Path
from typing import Any

from pealm_core import UserError
from pealm_formats.folders import read_json, write_json
from pealm_formats.ranks import RANKS, from_ranks

VOCABULARY, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
ADDED = "specials.json"  # special tokens that the core added, name → id
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}  # of an added token
END_OF_TEXT = "<|endoftext|>"  # of bpe


def export_vocabulary(kind: str, saved: Path, folder: Path, *, block_size: int) -> bool:
    """Write tokenizer.json and what belongs to it from a checkpoint's tokenizer folder.

    kind: the tokenizer's name. Returns False, and writes nothing, for one that has no such form. Raises ValueError.
    """
    if not (saved / VOCABULARY).is_file():
        return False
    added: dict[str, int] = read_json(saved / ADDED) if (saved / ADDED).is_file() else {}
    for name in (SETTINGS, TEMPLATE):
        if kind == "hf" and (saved / name).is_file():
            (folder / name).write_bytes((saved / name).read_bytes())
    if kind == "hf" and not added:
        (folder / VOCABULARY).write_bytes((saved / VOCABULARY).read_bytes())
        return True
    whole: dict[str, Any] = read_json(saved / VOCABULARY)
    if (saved / RANKS).is_file():
        if whole.get("encoding") != "gpt2":
            return False
        specials = whole["special_tokens"]
        whole, added = from_ranks((saved / RANKS).read_bytes()), {**specials, **added}
    elif "model" not in whole:
        return False
    if kind != "hf":
        known = {token["content"] for token in whole.get("added_tokens", [])}
        if kind == "bpe" and END_OF_TEXT not in known:
            added = {END_OF_TEXT: len(whole["model"]["vocab"]), **added}
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": block_size}
        ends = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT} if END_OF_TEXT in {*known, *added} else {}
        write_json(folder / SETTINGS, {**about, **ends})
        whole["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    whole["added_tokens"] = [
        *whole.get("added_tokens", []),
        *({"id": i, "content": name, **FLAGS, "special": True} for name, i in added.items()),
    ]
    write_json(folder / VOCABULARY, whole)
    return True


def check_size(tokens: int, rows: int, where: Path) -> None:
    """Raise UserError if a tokenizer has more tokens than a model's embedding has rows."""
    if tokens > rows:
        raise UserError(f"{where}: the tokenizer has {tokens:,} tokens, the model {rows:,}")
