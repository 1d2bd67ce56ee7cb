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

    by_character = fits_whole = True

    def __init__(self, config: CharConfig | None = None) -> None:
        self.config = config or CharConfig()
        self._fitted = False
        self._set("")

    def _set(self, chars: str) -> None:
        """Set the vocabulary, from which all else derives."""
        self.chars = chars
        points = np.array([ord(char) for char in chars], np.int64)
        # The id of each code point, -1 for one without; the last entry stands for all larger code points.
        self._ids = np.full(points.max(initial=0) + 2, -1, np.int64)
        self._ids[points] = np.arange(len(chars))

    @property
    def vocab_size(self) -> int:
        """Number of distinct characters."""
        return len(self.chars)

    def fit(self, texts: Iterable[str]) -> None:
        """Make the characters of the texts the vocabulary."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        if self.config.unknown == "replace":
            seen.add(REPLACEMENT)
        self._fitted = True
        self._set("".join(sorted(seen)))

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return ids, one per character. Raises ValueError for an unseen character unless it may be replaced."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        ids: NDArray[np.int64] = self._ids[np.minimum(points, len(self._ids) - 1)]
        unknown = np.flatnonzero(ids < 0)
        if len(unknown):
            if REPLACEMENT not in self.chars or self.config.unknown != "replace":
                place, helps = int(unknown[0]), self._fitted or REPLACEMENT in self.chars
                raise ValueError(
                    f"character {text[place]!r} (position {place:,}) is not among the {len(self.chars)} characters "
                    "of the training text; "
                    + ("--tokenizer.unknown replace writes U+FFFD instead" if helps else "leave it out")
                )
            ids[unknown] = self.chars.index(REPLACEMENT)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return "".join(self.chars[i] for i in ids)

    def stream_decoder(self) -> Callable[[int], str]:
        """Return a function from an id to its character."""
        return self.chars.__getitem__

    def save(self, folder: Path) -> None:
        """Write the characters to `chars.json`."""
        (folder / FILE).write_text(json.dumps(self.chars), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises ValueError if it is not a vocabulary."""
        try:
            chars = json.loads((folder / FILE).read_text(encoding="utf-8"))
        except RecursionError:  # brackets in thousands
            chars = None
        if not isinstance(chars, str) or sorted(set(chars)) != list(chars):
            raise ValueError(f"{folder / FILE} is not a list of distinct characters in order")
        self._set(chars)
