"""Suggestions for words that may be misspelt: the nearest known one."""

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that a misspelt one most likely means."""
    import difflib  # slow to import, and needed for errors only

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or a list of the known words if none is close and they are few."""
    known = sorted(known)
    if close := nearest(word, known):
        return f"; did you mean {close!r}?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 20 else ""
