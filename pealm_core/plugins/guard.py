"""The import guard: a plugin's module and config must not import a heavy package at their top.

Nothing is blocked: what a plugin imports is compared afterwards, so that an optional import of a dependency
(`try: import numpy`) works as usual.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

# Each of these packages takes longer to import than all of `pealm --help`.
HEAVY = frozenset(
    """
    datasets huggingface_hub jax jaxlib lm_eval matplotlib numba numpy onnx onnxruntime pandas PIL pyarrow
    requests safetensors scipy sentencepiece sklearn tensorflow tiktoken tokenizers torch torchaudio torchvision
    transformers
    """.split()  # noqa: SIM905 (a list of thirty strings reads worse)
)

# A module that was refused stays loaded, and is refused again in the same process.
_refused: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()


class HeavyImportError(ImportError):
    """A heavy package was imported where only light ones may be."""


@contextmanager
def light_imports(module: str) -> Iterator[None]:
    """Raise HeavyImportError if the body, which imports a plugin's module, loads a heavy package.

    Where a heavy package is loaded already, only the plugin's own direct imports are noticed.
    """
    before = set(sys.modules)
    yield
    new = [name for name in sys.modules if name not in before]  # in the order in which the imports ended
    imported = sys.modules.get(module)
    if imported is None:
        return
    if imported not in _refused and (found := _heavy_import(module, new)):
        importer, package = found
        own = _root(importer) == _root(module)
        _refused[imported] = (
            f"{importer if own else module} imports {package} at its top{'' if own else f', through {importer}'}, "
            f"which would slow down every command; import it in the module that the factory names"
        )
    if imported in _refused:
        raise HeavyImportError(_refused[imported])


def _heavy_import(module: str, new: list[str]) -> tuple[str, str] | None:
    """Return which of the new modules imports which heavy package, the outermost first."""
    loaded = [name for name in reversed(new) if name in HEAVY]
    for name in reversed(new):
        if _root(name) not in HEAVY and (loaded or _root(name) == _root(module)):
            for value in getattr(sys.modules[name], "__dict__", {}).values():
                if (package := _package(value)) in (loaded or HEAVY):
                    return name, package
    return (module, loaded[0]) if loaded else None


def _package(value: Any) -> str:
    """Return the root package of a module, class or function."""
    if isinstance(value, ModuleType):
        return _root(value.__name__)
    return _root(str(value.__module__)) if isinstance(value, (type, FunctionType, BuiltinFunctionType)) else ""


def _root(name: str) -> str:
    return name.partition(".")[0]
