"""A checkpoint's tokenizer as Hugging Face's files: those of `hf` as they are, those of `bpe` with an end of text."""

import json
from pathlib import Path
from typing import Any

from pealm_llama.files import read_json, write_json

VOCABULARY, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
ADDED = "specials.json"  # special tokens that the core added, name → id
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}  # of an added token
END_OF_TEXT = "<|endoftext|>"  # of bpe


def export_vocabulary(kind: str, saved: Path, folder: Path, *, block_size: int) -> bool:
    """Write tokenizer.json and what belongs to it from a checkpoint's tokenizer folder.

    kind: the tokenizer's name. Returns False, and writes nothing, for one that has no such form.
    """
    if kind not in ("hf", "bpe") or not (saved / VOCABULARY).is_file():
        return False
    added: dict[str, int] = read_json(saved / ADDED) if (saved / ADDED).is_file() else {}
    for name in (SETTINGS, TEMPLATE):
        if kind == "hf" and (saved / name).is_file():
            (folder / name).write_bytes((saved / name).read_bytes())
    if kind == "hf" and not added:
        (folder / VOCABULARY).write_bytes((saved / VOCABULARY).read_bytes())
        return True
    whole: dict[str, Any] = json.loads((saved / VOCABULARY).read_bytes())
    if kind == "bpe":
        added = {END_OF_TEXT: len(whole["model"]["vocab"]), **added}
        whole["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": block_size}
        write_json(folder / SETTINGS, {**about, "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT})
    whole["added_tokens"] = [
        *whole.get("added_tokens", []),
        *({"id": i, "content": name, **FLAGS, "special": True} for name, i in added.items()),
    ]
    write_json(folder / VOCABULARY, whole)
    return True
