"""The errors of pealm, and suggestions for misspelt words. `exit_code`: of a command that they end."""

from collections.abc import Iterable


class PealmError(Exception):
    """The work failed for a reason that fits one line."""

    exit_code = 1

    def __str__(self) -> str:
        return super().__str__() or type(self).__name__  # never empty: between ranks, an empty text means no error


def describe(error: BaseException) -> str:
    """Return `ValueError: its text`, also of an exception whose text can't be made."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__} (its text can't be made)"


class ElsewhereError(PealmError):
    """Another process of the run failed and prints the reason; this one ends without a message."""


class UserError(PealmError):
    """The user's input can't be used: the message says what, where and the fix. Nothing was lost or half-written."""

    exit_code = 2


class InvalidCheckpointError(UserError):
    """A folder that is not a complete checkpoint; the message names the file and what is wrong with it."""


class PluginError(PealmError):
    """An installed plugin breaks the contract: the message names the plugin and the reason."""

    exit_code = 3


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that a misspelt one most likely means."""
    from difflib import get_close_matches  # slow to import, and needed for errors only

    return next(iter(get_close_matches(word, list(known), n=1)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or a list of the known words if none is close and they are few."""
    known = sorted(known)
    if close := nearest(word, known):
        return f"; did you mean {close!r}?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 20 else ""
