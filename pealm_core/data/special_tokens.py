"""Special tokens that are added to a tokenizer, and a chat layout; both are kept beside it, as JSON."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pealm_core.contract.protocols import Tokenizer, has

FILE, CHAT = "specials.json", "chat.json"


class WithSpecials:
    """A tokenizer with more special tokens, whose ids follow its own; anything else is the tokenizer's.

    `encode` gives none of them, whatever the text says; `decode` shows their names.
    """

    def __init__(self, tokenizer: Tokenizer, names: Sequence[str], chat: Mapping[str, Any] | None = None) -> None:
        self.tokenizer, self.names, self.chat = tokenizer, tuple(names), chat

    @property
    def vocab_size(self) -> int:
        """The tokenizer's tokens and the added ones."""
        return self.tokenizer.vocab_size + len(self.names)

    @property
    def added(self) -> dict[str, int]:
        """The added tokens, name → id."""
        return {name: self.tokenizer.vocab_size + i for i, name in enumerate(self.names)}

    @property
    def specials(self) -> Mapping[str, int]:
        """All special tokens, name → id."""
        return {**specials_of(self.tokenizer), **self.added}

    def encode(self, text: str) -> Sequence[int]:
        """Return the tokenizer's ids of a text."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        runs = groupby(map(int, ids), key=lambda token: token >= self.tokenizer.vocab_size)
        return "".join("".join(map(self._name, run)) if own else self.tokenizer.decode([*run]) for own, run in runs)

    def _name(self, token: int) -> str:
        if token >= self.vocab_size:
            raise ValueError(f"token {token} is not among the {self.vocab_size:,}")
        return self.names[token - self.tokenizer.vocab_size]

    def save(self, folder: Path) -> None:
        """Write the tokenizer's own files, the added tokens, and the chat layout."""
        if has(self.tokenizer, "save"):
            self.tokenizer.save(folder)  # type: ignore[attr-defined]
        for name, value in ((FILE, self.added), (CHAT, self.chat)):
            if value is not None:
                (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")

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


def with_specials(
    tokenizer: Tokenizer,
    wanted: Iterable[str],
    saved: Path | None = None,
    chat: Mapping[str, Any] | None = None,
) -> Tokenizer:
    """Return the tokenizer with the special tokens that were saved in a folder, and those that are wanted.

    chat: a chat layout; without one, the saved one is kept. It is the tokenizer itself if nothing has to be added.
    Raises ValueError if the saved tokens don't follow it, or for a wrong layout.
    """
    names = _read(tokenizer, saved / FILE) if saved is not None and (saved / FILE).exists() else []
    if saved is not None and (saved / CHAT).exists():
        chat = chat or _json(saved / CHAT)
    wanted = [*wanted, *specials_in(chat)]
    names += [name for name in dict.fromkeys(wanted) if name not in {*specials_of(tokenizer), *names}]
    return WithSpecials(tokenizer, names, chat) if names or chat else tokenizer


def specials_in(chat: Any) -> list[str]:
    """Return the names of the special tokens of a chat layout, if any. Raises ValueError for what is not a layout."""
    if chat is None:
        return []
    roles = chat.get("roles") if isinstance(chat, Mapping) else None
    names = [*roles.values(), chat.get("end")] if isinstance(roles, Mapping) else []
    if not {"user", "assistant"} <= {*(roles or ())} or not all(name and isinstance(name, str) for name in names):
        raise ValueError(f"a chat layout needs roles with user and assistant, and an end, not {chat!r:.80}")
    return names


def _read(tokenizer: Tokenizer, path: Path) -> list[str]:
    table, first = _json(path), tokenizer.vocab_size
    if not isinstance(table, dict) or list(table.values()) != [*range(first, first + len(table))]:
        raise ValueError(f"{path} must give special tokens the ids from {first:,} on")
    return list(table)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
