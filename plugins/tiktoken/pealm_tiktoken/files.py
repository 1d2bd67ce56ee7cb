"""A vocabulary on disk: `ranks.tiktoken` in tiktoken's own format, the rest in `tokenizer.json`."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LARGEST = 2**28  # bytes of a file, and ids
RANKS, REST = "ranks.tiktoken", "tokenizer.json"
# How the encodings of these names cut a text, as in tiktoken.
PATTERNS = {
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    "cl100k": (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
        r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
    ),
    "o200k": (
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
        r"""|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
        r"""|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
    ),
}


@dataclass(frozen=True)
class Vocabulary:
    """pat_str: the pattern that cuts a text into pieces. ranks: bytes → id, in the order of merging."""

    pat_str: str
    ranks: dict[bytes, int]
    special_tokens: dict[str, int]


def write(folder: Path, encoding: str, vocabulary: Vocabulary) -> None:
    """Write both files. A line of the ranks: the token in base64, a space, its rank."""
    lines = [
        base64.b64encode(token) + b" %d\n" % rank
        for token, rank in sorted(vocabulary.ranks.items(), key=lambda item: item[1])
    ]
    (folder / RANKS).write_bytes(b"".join(lines))
    rest = {
        "encoding": encoding,
        "pat_str": vocabulary.pat_str,
        "special_tokens": vocabulary.special_tokens,
    }
    (folder / REST).write_text(json.dumps(rest, indent=1), encoding="utf-8")


def read(folder: Path, encoding: str) -> Vocabulary:
    """Read what `write` wrote. Raises ValueError naming the file, and the line where one is wrong."""
    path = folder / REST
    try:
        rest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(rest, dict) or not isinstance(rest.get("pat_str"), str):
        raise ValueError(f'{path} has no "pat_str"')
    special = rest.get("special_tokens")
    if not isinstance(special, dict) or not all(
        type(rank) is int and 0 <= rank < LARGEST for rank in special.values()
    ):
        raise ValueError(f'{path}: "special_tokens" must give every token an id')
    if rest.get("encoding") != encoding:
        raise ValueError(f"{path} is of encoding {rest.get('encoding')!r}, not {encoding!r}")
    ranks = _read_ranks(folder / RANKS)
    if taken := {*ranks.values()} & {*special.values()}:  # two special tokens may have one id: o200k_harmony has some
        raise ValueError(f"{path}: a special token has the id {min(taken)}, that of a token in {RANKS}")
    return Vocabulary(rest["pat_str"], ranks, special)


def from_file(path: Path, pattern: str, specials: Sequence[str]) -> Vocabulary:
    """Return the vocabulary of a .tiktoken file, with special tokens after its ranks. Raises OSError, ValueError."""
    ranks = _read_ranks(path)
    first = max(ranks.values()) + 1
    return Vocabulary(PATTERNS.get(pattern, pattern), ranks, {name: first + i for i, name in enumerate(specials)})


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is larger than {LARGEST:,} bytes")
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        token, _, rank = line.partition(b" ")
        try:
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {line[:60]!r} is not a token and a rank") from error
        if not 0 <= ranks[base64.b64decode(token)] < LARGEST:
            raise ValueError(f"{path}, line {number}: the rank must be from 0 to {LARGEST:,}")
    if len({*ranks.values()}) != len(ranks):
        raise ValueError(f"{path}: ranks must be distinct")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ValueError(f"{path} has no token for byte {missing[0]:#04x}")
    return ranks
