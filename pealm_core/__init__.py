"""The core of pealm: contract, plugin host, trainer, sampler, scoring. It contains no model.

    run = pealm_core.train("char-transformer", {"text": "book.txt"}, steps=1000)
    lm = pealm_core.load(run)
    print(lm.generate("ROMEO:"))

Its public names are those of `public.py`, which is read, not imported: each name is imported on first use.
"""

from functools import cache as _cache
from importlib import import_module as _import
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pealm_core.public import *  # noqa: F403


@_cache
def _modules() -> dict[str, str]:
    """Return the module of each public name: lines of `from MODULE import NAME as NAME`."""
    lines = _Path(__file__).with_name("public.py").read_text(encoding="utf-8").splitlines()
    return {line.split()[-1]: line.split()[1] for line in lines if line.startswith("from ")}


def __getattr__(name: str) -> Any:
    if name == "__all__":  # what `from pealm_core import *` and help() ask for
        return __dir__()
    if name not in _modules():
        raise AttributeError(f"module 'pealm_core' has no attribute {name!r}")
    return getattr(_import(_modules()[name]), name)


def __dir__() -> list[str]:
    return sorted(_modules())
