"""The tokenizer in a GGUF file as Hugging Face's files, and back: byte-level BPE (GPT-2, SmolLM2, Qwen)."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pealm_core import UserError
from pealm_formats.folders import read_json, write_json
from pealm_formats.gguf_file import GGUF
from pealm_formats.vocabulary import FLAGS, SETTINGS, TEMPLATE, VOCABULARY

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # types of tokens; control: special, user-defined: pieces of text
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
    "gpt-2": [WORDS],  # first, because "default" is something else in newer versions of llama.cpp
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
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name in ("bos", "eos"):
        i = file.get(f"tokenizer.ggml.{name}_token_id")
        if type(i) is int and 0 <= i < len(tokens):
            settings[f"{name}_token"] = tokens[i]
    # llama.cpp's default differs: of Llama 3's vocabularies the token is put before a text unless the file says no.
    if "bos_token" in settings and file.get("tokenizer.ggml.add_bos_token", cut == "llama-bpe") is True:
        whole["post_processor"] = _opening(settings["bos_token"], tokens.index(settings["bos_token"]))
    write_json(folder / VOCABULARY, whole)
    write_json(folder / SETTINGS, settings)
    if isinstance(template := file.get("tokenizer.chat_template"), str):
        (folder / TEMPLATE).write_text(template, encoding="utf-8")


def vocabulary_fields(folder: Path, size: int) -> dict[str, Any]:
    """Return the settings of a GGUF file for the tokenizer in a folder of Hugging Face's, with `size` tokens.

    Ids without a token are named [PAD...]. Raises UserError for a tokenizer that llama.cpp would read in another way.
    """
    whole = read_json(folder / VOCABULARY)
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    model, steps = whole["model"], _steps(whole.get("pre_tokenizer"))
    kinds = [name for name, cut in CUTS.items() if _steps({"type": "Sequence", "pretokenizers": cut}) == steps]
    if model.get("type") != "BPE" or not kinds:
        raise UserError(
            f"its tokenizer ({model.get('type')!r:.40}) can't be written as GGUF: llama.cpp has byte-level BPE that "
            f"cuts text as {', '.join(CUTS)} do"
        )
    library = Tokenizer.from_file(str(folder / VOCABULARY))
    plain, complete = (library.encode("a", add_special_tokens=add).ids for add in (False, True))
    opening = complete[0] if plain and complete[1 : 1 + len(plain)] == plain else None  # put before each text
    added = {token["id"]: token for token in whole.get("added_tokens", [])}
    ids = {i: token for token, i in model["vocab"].items()} | {i: token["content"] for i, token in added.items()}
    special = {i: CONTROL if token.get("special") else USER_DEFINED for i, token in added.items()}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    fields: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": kinds[0],
        "tokenizer.ggml.tokens": [ids.get(i, f"[PAD{i}]") for i in range(size)],
        "tokenizer.ggml.token_type": [special.get(i, NORMAL if i in ids else UNUSED) for i in range(size)],
        "tokenizer.ggml.add_bos_token": opening is not None,
    }
    if opening is not None:
        fields["tokenizer.ggml.bos_token_id"] = opening
    if merges:
        fields["tokenizer.ggml.merges"] = merges
    numbers = {token: i for i, token in ids.items()}
    for name in ("bos", "eos"):
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token in numbers and f"tokenizer.ggml.{name}_token_id" not in fields:
            fields[f"tokenizer.ggml.{name}_token_id"] = numbers[token]
    template = settings.get("chat_template")
    if (folder / TEMPLATE).is_file():
        template = (folder / TEMPLATE).read_text(encoding="utf-8")
    if isinstance(template, str):
        fields["tokenizer.chat_template"] = template
    return fields


def _opening(name: str, i: int) -> dict[str, Any]:
    """Return a post_processor that puts a token before each text."""
    token, text = {"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    special = {name: {"id": name, "ids": [i], "tokens": [name]}}
    return {
        "type": "TemplateProcessing",
        "single": [token, text],
        "pair": [token, text, second],
        "special_tokens": special,
    }


def _steps(cut: Any) -> list[Any]:
    """Return what a pre_tokenizer does, without what changes nothing."""
    if not isinstance(cut, dict):
        return [cut]
    if cut.get("type") == "Sequence":
        return [step for part in cut["pretokenizers"] for step in _steps(part)]
    given = {"use_regex": True, **cut} if cut.get("type") == "ByteLevel" else cut
    return [{key: value for key, value in given.items() if key != "trim_offsets"}]
