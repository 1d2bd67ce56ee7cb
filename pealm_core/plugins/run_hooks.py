"""The hooks of a run: pluggy calls them, and an error in one plugin doesn't stop the others."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any

Attempt = Callable[..., Any]  # call a function with arguments; errors don't leave it


def attempting(function: Callable[..., Any], attempt: Attempt) -> Callable[..., Any]:
    """Return a hook's function or pluggy wrapper with its body run by `attempt(part, *args)`.

    A wrapper's `yield` gives None: the hooks that may have one have no results.
    """

    @wraps(function)
    def call(*args: Any) -> Any:
        return attempt(function, *args)

    @wraps(function)
    def wrapper(*args: Any) -> Iterator[None]:
        context = contextmanager(function)(*args)
        attempt(_enter, context)
        yield
        attempt(_leave, context)

    return wrapper if isgeneratorfunction(function) else call


def _enter(context: AbstractContextManager[Any]) -> None:
    context.__enter__()


def _leave(context: AbstractContextManager[Any]) -> None:
    context.__exit__(None, None, None)
