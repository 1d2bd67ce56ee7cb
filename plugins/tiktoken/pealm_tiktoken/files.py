"""A vocabulary on disk: `ranks.tiktoken` in tiktoken's own format, the rest in `tokenizer.json`."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

RANKS, REST = "ranks.tiktoken", "tokenizer.json"


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
    """What `write` wrote. Raises ValueError naming the file, and the line where one is wrong."""
    path = folder / REST
    try:
        rest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(rest, dict) or not isinstance(rest.get("pat_str"), str):
        raise ValueError(f'{path} has no "pat_str"')
    special = rest.get("special_tokens")
    if not isinstance(special, dict) or not all(type(rank) is int and rank >= 0 for rank in special.values()):
        raise ValueError(f'{path}: "special_tokens" must give every token an id')
    if rest.get("encoding") != encoding:
        raise ValueError(f"{path} is of encoding {rest.get('encoding')!r}, not {encoding!r}")
    ranks = _read_ranks(folder / RANKS)
    taken = {*ranks.values(), *special.values()}
    if len(taken) != len(ranks) + len(special) or min(taken) < 0:
        raise ValueError(f"{folder / RANKS}: ranks must be distinct and not negative")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ValueError(f"{folder / RANKS} has no token for byte {missing[0]:#04x}")
    return Vocabulary(rest["pat_str"], ranks, special)


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        token, _, rank = line.partition(b" ")
        try:
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {line[:60]!r} is no token and rank") from error
    return ranks
