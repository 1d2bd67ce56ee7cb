"""One token per character.

>>> tokenizer = CharTokenizer()
>>> tokenizer.fit(["hello"])
>>> tokenizer.encode("hole").tolist()
[1, 3, 2, 0]
>>> tokenizer.decode([1, 3, 2, 0])
'hole'
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pealm_char.config import CharConfig

REPLACEMENT = "\ufffd"
FILE = "chars.json"


class CharTokenizer:
    """Characters to ids in code point order; `unknown="replace"` adds U+FFFD for all unseen ones."""

    def __init__(self, config: CharConfig | None = None) -> None:
        self.config = config or CharConfig()
        self._set("")

    def _set(self, chars: str) -> None:
        """Everything derives from the characters."""
        self.chars = chars
        self._points = np.array([ord(char) for char in chars], np.uint32)

    @property
    def vocab_size(self) -> int:
        """Distinct characters."""
        return len(self.chars)

    def fit(self, texts: Iterable[str]) -> None:
        """Take the characters of the texts as the vocabulary."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        if self.config.unknown == "replace":
            seen.add(REPLACEMENT)
        self._set("".join(sorted(seen)))

    def encode(self, text: str) -> NDArray[np.int64]:
        """Ids, one per character. Raises ValueError for an unseen character unless it may be replaced."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = np.searchsorted(self._points, points)
        known = ids < len(self.chars)
        known[known] = self._points[ids[known]] == points[known]
        if not known.all():
            place = int(np.flatnonzero(~known)[0])
            if REPLACEMENT not in self.chars or self.config.unknown != "replace":
                raise ValueError(
                    f"character {text[place]!r} (position {place:,}) is not among the {len(self.chars)} characters "
                    f"of the training text; --tokenizer.unknown replace would stand in for it"
                )
            ids[~known] = self.chars.index(REPLACEMENT)
        return ids.astype(np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return "".join(self.chars[i] for i in ids)

    def stream_decoder(self) -> Callable[[int], str]:
        """Every id is a whole character."""
        return self.chars.__getitem__

    def save(self, folder: Path) -> None:
        """Write the characters to `chars.json`."""
        (folder / FILE).write_text(json.dumps(self.chars), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises ValueError where it is no vocabulary."""
        chars = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if not isinstance(chars, str) or sorted(set(chars)) != list(chars):
            raise ValueError(f"{folder / FILE} is no list of distinct characters in order")
        self._set(chars)
