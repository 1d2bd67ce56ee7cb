"""What a word is, for the command and the evaluation alike."""

import re
from collections import Counter
from pathlib import Path

from pealm_core import UserError


def words(text: str) -> list[str]:
    """Runs of letters, apostrophes inside included, in lower case.

    >>> words("It's three o'clock -- isn't it?")
    ["it's", 'three', "o'clock", "isn't", 'it']
    """
    return re.findall(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*", text.lower())


def count(path: Path) -> Counter[str]:
    """How often each word is in a file. Raises UserError, which pealm shows as one line."""
    try:
        return Counter(words(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read as text: {error}") from error
