"""The import guard: while it is up, this thread can't import a heavy package.

It works whether or not the package is loaded already, so that a plugin gets the same verdict in a bare `--help`
and in a notebook where torch has been around for hours.
"""

import builtins
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Roots that no plugin may import at its top: each costs a `--help` more than all of pealm does.
HEAVY = frozenset(
    """
    datasets huggingface_hub jax jaxlib lm_eval matplotlib numba numpy onnx onnxruntime pandas PIL pyarrow
    requests safetensors scipy sentencepiece sklearn tensorflow tiktoken tokenizers torch torchaudio torchvision
    transformers
    """.split()  # noqa: SIM905 (a list of thirty strings reads worse)
)


_guarded = threading.local()  # .up: whether this thread loads a plugin


class HeavyImportError(ImportError):
    """A heavy package was imported where only light ones may be."""


def _statement() -> str:
    """Where the import stands: the first frame that is neither ours nor the import system's."""
    frame: Any = sys._getframe(1)
    here = str(Path(__file__).parents[1])
    while frame is not None and (
        frame.f_code.co_filename.startswith(here) or "importlib" in frame.f_code.co_filename
    ):
        frame = frame.f_back
    return f" ({Path(frame.f_code.co_filename).name}, line {frame.f_lineno})" if frame else ""


def refuse_heavy(root: str) -> None:
    """Raise HeavyImportError where only light imports may be: for names of ours that bring a heavy package."""
    if getattr(_guarded, "up", False):
        raise HeavyImportError(
            f"imports {root} at its top{_statement()}, which would slow down every command; "
            f"do it in the module that the factory names, away from the record and the config"
        )


@contextmanager
def light_imports() -> Iterator[None]:
    """Refuse heavy imports on this thread. Raises HeavyImportError at the statement that tries one."""
    real, before = builtins.__import__, getattr(_guarded, "up", False)

    def guarded(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        root = name.partition(".")[0]
        if level == 0 and root in HEAVY:
            refuse_heavy(root)
        return real(name, globals, locals, fromlist, level)

    builtins.__import__, _guarded.up = guarded, True
    try:
        yield
    finally:
        builtins.__import__, _guarded.up = real, before
