"""The hooks of a run: pluggy calls them, and an error in one plugin doesn't stop the others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any


def collecting(function: Callable[..., Any], failed: Callable[[BaseException], None]) -> Callable[..., Any]:
    """Wrap a hook's function or pluggy wrapper: its errors go to `failed` instead of the caller.

    The hooks of a run have no results, so a wrapper's `yield` gives None.
    """

    def attempt(part: Callable[..., Any], *args: Any) -> None:
        try:
            part(*args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit, and a panic in Rust
            failed(error)

    @wraps(function)
    def call(*args: Any) -> None:
        attempt(function, *args)

    @wraps(function)
    def wrapper(*args: Any) -> Iterator[None]:
        context = contextmanager(function)(*args)
        attempt(context.__enter__)
        yield
        attempt(context.__exit__, None, None, None)

    return wrapper if isgeneratorfunction(function) else call
