"""Calls into plugins: who is blamed for an exception, and for a result that is not what the contract says."""

from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from pealm_core.contract.errors import PluginError, describe

ROOTS: dict[str, str] = {}  # the top-level modules of the loaded plugins → their distributions
# Not ValueError: tokenizers and evaluators raise it for what the user did.
FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, SystemExit, TypeError)
HINT = " (PEALM_DEBUG=1 shows the traceback)"

Returns = tuple[Callable[[Any], Any], str]  # a test of a result, and what the result must be
ANYTHING: Returns = (lambda r: True, "")
METRICS = "metrics, a mapping of names to scalars"
FORWARD: Returns = (
    lambda r: isinstance(r, tuple | list) and scalar(r[1]) and len(r) in (2, 3) and all(map(metrics, r[2:])),
    f"(logits or None, loss) with targets, the loss a scalar tensor, and optionally {METRICS}",
)


def scalar(value: Any) -> bool:
    """Whether a value is a tensor without dimensions."""
    return bool(value.shape == () and value.backward)


def metrics(table: Mapping[Any, Any]) -> bool:
    """Whether these are metrics, numbers or tensors without dimensions."""
    return all(isinstance(k, str) and (isinstance(v, Real) or v.shape == ()) for k, v in table.items())


def blame(error: BaseException) -> str:
    """Return `DIST (model.py, line 12, forward)` if an exception comes out of a plugin's own code, else ""."""
    blamed, place = "", error.__traceback__
    while place is not None:
        code, root = place.tb_frame.f_code, str(place.tb_frame.f_globals.get("__name__")).partition(".")[0]
        if ROOTS.get(root, "pealm-core") != "pealm-core":
            blamed = f"{ROOTS[root]} ({Path(code.co_filename).name}, line {place.tb_lineno}, {code.co_name})"
        place = place.tb_next
    return blamed


def explain(error: BaseException) -> str:
    """Return a plugin's exception with its place: `ValueError: its text (model.py, line 12, forward)`."""
    return describe(error) + blame(error).partition(" ")[2].join((" ", "")).rstrip()


def owner(part: Any) -> str:
    """Return the distribution and name of a plugin's function, method or object: `file:mine.py: Mine.loss`."""
    if (component := getattr(part, "__self__", None)) is not None:
        kind, name = type(component), f"{type(component).__qualname__}.{part.__name__}"
    else:
        kind = part if hasattr(part, "__qualname__") else type(part)
        name = kind.__qualname__.replace("<locals>.", "")
    root = str(kind.__module__).partition(".")[0]
    return f"{ROOTS.get(root, root)}: {name}"


def call_plugin(part: Callable[..., Any], returns: Returns, *args: Any, **kwargs: Any) -> Any:
    """Call a plugin's function and return its result. Raises PluginError for a wrong one, and for FAULTS of it."""
    try:
        result = part(*args, **kwargs)
    except FAULTS as error:
        who = blame(error)
        what = "" if who or not returns[1] else f"; it must return {returns[1]}"
        raise PluginError(f"{who or owner(part)}: {describe(error)}{what}{HINT}") from error
    return check(owner(part), returns, result)


def check(what: str, returns: Returns, result: Any) -> Any:
    """Return a plugin's result. Raises PluginError if it fails the test."""
    test, must = returns
    try:
        correct = bool(test(result))
    except Exception:
        correct = False
    if not correct:
        raise PluginError(f"{what} must return {must}, not {shown(result)}")
    return result


def shown(value: Any) -> str:
    """Return a value as messages show it: in one short line, tensors by their shapes."""
    if isinstance(value, tuple | list) and len(value) < 9:
        return f"({', '.join(map(shown, value))})"
    if hasattr(value, "shape"):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    try:
        return f"{' '.join(repr(value).split()):.80}"
    except Exception:
        return f"a {type(value).__name__}"
