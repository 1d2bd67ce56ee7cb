"""The import guard: while it is up, this thread can't import a heavy package.

It works whether or not the package is loaded already, so that a plugin gets the same verdict in a bare `--help`
and in a notebook where torch has been around for hours.
"""

import builtins
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

# Roots that no plugin may import at its top: each costs a `--help` more than all of pealm does.
HEAVY = frozenset(
    """
    datasets huggingface_hub jax jaxlib lm_eval matplotlib numba numpy onnx onnxruntime pandas PIL pyarrow
    requests safetensors scipy sentencepiece sklearn tensorflow tiktoken tokenizers torch torchaudio torchvision
    transformers
    """.split()  # noqa: SIM905 (a list of thirty strings reads worse)
)


class HeavyImportError(ImportError):
    """A heavy package was imported where only light ones may be."""


@contextmanager
def light_imports() -> Iterator[None]:
    """Refuse heavy imports on this thread. Raises HeavyImportError at the statement that tries one."""
    real, here = builtins.__import__, threading.get_ident()

    def guarded(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        root = name.partition(".")[0]
        if level == 0 and root in HEAVY and threading.get_ident() == here:
            raise HeavyImportError(
                f"imports {root} at its top, which would slow down every command; "
                f"import {root} in the module that its factory names instead"
            )
        return real(name, globals, locals, fromlist, level)

    builtins.__import__ = guarded
    try:
        yield
    finally:
        builtins.__import__ = real
