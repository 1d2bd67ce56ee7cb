"""Special tokens that are added to a tokenizer, and kept beside it in `specials.json`."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pealm_core.contract.protocols import Tokenizer, has

FILE = "specials.json"


class WithSpecials:
    """A tokenizer with more special tokens, whose ids follow its own; anything else is the tokenizer's.

    `encode` gives none of them, whatever the text says; `decode` shows their names.
    """

    def __init__(self, tokenizer: Tokenizer, names: Sequence[str]) -> None:
        self.tokenizer, self.names = tokenizer, tuple(names)

    @property
    def vocab_size(self) -> int:
        """The tokenizer's tokens and the added ones."""
        return self.tokenizer.vocab_size + len(self.names)

    @property
    def specials(self) -> Mapping[str, int]:
        """All special tokens, name → id."""
        first = self.tokenizer.vocab_size
        return {**specials_of(self.tokenizer), **{name: first + i for i, name in enumerate(self.names)}}

    def encode(self, text: str) -> Sequence[int]:
        """Return the tokenizer's ids of a text."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return "".join(part if isinstance(part, str) else self.tokenizer.decode(part) for part in self._parts(ids))

    def _parts(self, ids: Sequence[int]) -> Iterator[str | list[int]]:
        """Yield the names of added tokens, and what is between them."""
        first, run = self.tokenizer.vocab_size, list[int]()
        for token in map(int, ids):
            if token < first:
                run.append(token)
                continue
            yield run
            yield self._name(token)
            run = []
        yield run

    def _name(self, token: int) -> str:
        if token >= self.vocab_size:
            raise ValueError(f"token {token} is not among the {self.vocab_size:,}")
        return self.names[token - self.tokenizer.vocab_size]

    def save(self, folder: Path) -> None:
        """Write the tokenizer's own files and the added tokens."""
        if has(self.tokenizer, "save"):
            self.tokenizer.save(folder)  # type: ignore[attr-defined]
        first = self.tokenizer.vocab_size
        table = {name: first + i for i, name in enumerate(self.names)}
        (folder / FILE).write_text(json.dumps(table, ensure_ascii=False, indent=1), encoding="utf-8")

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer" or name.startswith("__"):  # while it is unpickled
            raise AttributeError(name)
        value = getattr(self.tokenizer, name)
        return self._stream_decoder if name == "stream_decoder" else value

    def _stream_decoder(self) -> Callable[[int], str]:
        first = self.tokenizer.vocab_size
        own: Callable[[int], str] = self.tokenizer.stream_decoder()  # type: ignore[attr-defined]
        return lambda token: own(token) if token < first else self._name(token)


def specials_of(tokenizer: Tokenizer) -> Mapping[str, int]:
    """Return a tokenizer's special tokens, name → id."""
    return getattr(tokenizer, "specials", None) or {}


def with_specials(tokenizer: Tokenizer, wanted: Iterable[str], saved: Path | None = None) -> Tokenizer:
    """Return the tokenizer with the special tokens that were saved in a folder, and those that are wanted.

    It is the tokenizer itself if nothing has to be added. Raises ValueError if the saved ones don't follow it.
    """
    names = _read(tokenizer, saved / FILE) if saved is not None and (saved / FILE).exists() else []
    names += [name for name in dict.fromkeys(wanted) if name not in {*specials_of(tokenizer), *names}]
    return WithSpecials(tokenizer, names) if names else tokenizer


def _read(tokenizer: Tokenizer, path: Path) -> list[str]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        table = None
    first = tokenizer.vocab_size
    if not isinstance(table, dict) or list(table.values()) != [*range(first, first + len(table))]:
        raise ValueError(f"{path} must give special tokens the ids from {first:,} on")
    return list(table)
