"""GPT-2's vocabulary: from tiktoken's ranks to Hugging Face's tokenizer files and back.

tiktoken's text form has one token per line, base64 and rank; a token is the concatenation of two earlier ones, and
BPE joins the pair of lowest rank first. Hugging Face lists those pairs (merges) and spells a byte as a letter.
"""

import base64
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from pealm_core import UserError
from pealm_formats.folders import read_json, write_json

VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt")  # of Hugging Face
RANKS, ABOUT = "ranks.tiktoken", "tokenizer.json"  # in a checkpoint's tokenizer folder
EOT = "<|endoftext|>"
# How text is split before BPE; the `encoder.py` of OpenAI's GPT-2.
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # these bytes are their own letters
_LETTERS = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in _PRINTABLE)
}
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}


def spell(token: bytes) -> str:
    """Return a token's letters.

    >>> spell(b" caf\\xc3\\xa9")
    'ĠcafÃ©'
    """
    return "".join(_LETTERS[byte] for byte in token)


def unspell(letters: str) -> bytes:
    """Return the bytes of a token's letters. Raises ValueError for other characters."""
    if not _BYTES.keys() >= set(letters):
        raise ValueError(f"its token {letters!r} is not spelt in bytes")
    return bytes(_BYTES[letter] for letter in letters)


def merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pairs that BPE joins, in order: each token's parts by the ranks below its own. Raises ValueError.

    >>> list(merges({b"a": 0, b"b": 1, b"ab": 2, b"abb": 3}))
    [(b'a', b'b'), (b'ab', b'b')]
    """
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            joined = [ranks.get(a + b, math.inf) for a, b in pairwise(parts)]
            i = joined.index(min(joined))
            if joined[i] >= rank:
                raise ValueError(f"token {rank} ({token!r}) is not a pair of earlier tokens")
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]


def from_ranks(content: bytes) -> dict[str, Any]:
    """Return a tokenizer.json of GPT-2's encoding from tiktoken's text form. Raises ValueError."""
    lines = (line.split() for line in content.splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    return {
        "version": "1.0",
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {spell(token): rank for token, rank in ranks.items()},
            "merges": [[spell(a), spell(b)] for a, b in merges(ranks)],
        },
    }


def write_ranks(folder: Path, saved: Path) -> bool:
    """Write a checkpoint's tokenizer folder from Hugging Face's files.

    Returns False, and writes nothing, if there are none. Raises UserError.
    """
    fast, vocab_json, merges_txt = (folder / name for name in VOCABULARIES)
    if fast.is_file():
        path, (vocab, pairs, special) = fast, _read_fast(fast)
    elif vocab_json.is_file() and merges_txt.is_file():
        path, vocab, special = vocab_json, read_json(vocab_json), {}
        lines = merges_txt.read_text(encoding="utf-8").splitlines()
        pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    else:
        return False
    ordinary = dict.fromkeys([*_BYTES, *map("".join, pairs)])  # what bytes and merges give, in order
    try:
        if lost := [token for token in ordinary if token not in vocab]:
            raise ValueError(f"it has no token {lost[0]!r}")
        ranks = {unspell(token): vocab[token] for token in ordinary}
        if [(spell(a), spell(b)) for a, b in merges(ranks)] != pairs:
            raise ValueError("its ids are not in the order of its merges")
    except ValueError as error:
        raise UserError(f"{path} is not a vocabulary like GPT-2's: {error}") from None
    special = {token: i for token, i in vocab.items() if token not in ordinary} | special
    rows = sorted((rank, base64.b64encode(token).decode()) for token, rank in ranks.items())
    (saved / RANKS).write_text("".join(f"{token} {rank}\n" for rank, token in rows), encoding="ascii")
    write_json(saved / ABOUT, {"encoding": "gpt2", "pat_str": PATTERN, "special_tokens": special})
    return True


def _read_fast(path: Path) -> tuple[dict[str, int], list[tuple[str, ...]], dict[str, int]]:
    """Ids, merges and special tokens of a tokenizer.json, as the tokenizers library writes it. Raises UserError."""
    whole = read_json(path)
    model, split = ((whole.get(key) if isinstance(whole, dict) else None) or {} for key in ("model", "pre_tokenizer"))
    if split.get("type") == "Sequence" and len(parts := split.get("pretokenizers") or []) == 1:
        split = parts[0]
    if model.get("type") != "BPE" or split.get("type") != "ByteLevel" or not split.get("use_regex", True):
        raise UserError(f"{path} is not a byte-level BPE like GPT-2's")
    pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    return model["vocab"], pairs, {token["content"]: token["id"] for token in whole.get("added_tokens", [])}
