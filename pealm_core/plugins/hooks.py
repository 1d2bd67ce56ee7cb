"""The hooks of a run: pluggy calls them, and an error in one plugin doesn't stop the others."""

from collections.abc import Callable, Generator
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any


def collecting(function: Callable[..., Any], failed: Callable[[BaseException], None]) -> Callable[..., Any]:
    """Wrap a hook's function, also a pluggy wrapper: its errors go to `failed` instead of the caller."""
    options: dict[str, Any] = vars(function)["pealm_impl"]

    def attempt(part: Callable[..., Any], *args: Any) -> Any:
        try:
            return part(*args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit, and a panic in Rust
            return failed(error)

    @wraps(function)
    def call(*args: Any) -> Any:
        return attempt(function, *args)

    @wraps(function)
    def wrapper(*args: Any) -> Generator[None, Any, Any]:
        body = function(*args)
        attempt(next, body)
        result = yield
        return attempt(_finish, body, result)

    wraps_others = options.get("wrapper") or options.get("hookwrapper")
    return wrapper if wraps_others and isgeneratorfunction(function) else call  # pluggy refuses other functions


def _finish(body: Generator[None, Any, Any], result: Any) -> Any:
    """Run a wrapper from its `yield` to its end."""
    try:
        body.send(result)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a hook wrapper must yield once")
