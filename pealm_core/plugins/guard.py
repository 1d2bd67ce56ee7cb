"""What a plugin's code must not do while it is imported: write to stdout, end the process, import a heavy package.

It may change the current folder, which is restored.

Nothing is blocked: what was imported is looked at afterwards, so that an optional import of a dependency
(`try: import numpy`) works as usual.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, chdir, contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType
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

_refused: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()  # they stay loaded: the next import is free


class DefectError(Exception):
    """A plugin's defect, described by a message that needs no exception name."""


class ClosedFilesError(Exception):
    """A plugin closed all open files, stdout's copy among them: what the command prints would be lost."""


@contextmanager
def guarded(light: str = "") -> Iterator[None]:
    """Import a plugin's code in the body. light: a module in which a heavy import is a DefectError."""
    with _prints_to_stderr(), _same_folder(), no_exit(), _light_imports(light) if light else nullcontext():
        yield


@contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """Send what is printed in the body to stderr, also by native code and processes: stdout is for results."""
    own = -1
    with suppress(OSError):  # one of them is closed
        own = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if own >= 0:
            try:
                os.dup2(own, 1)
                os.close(own)
            except OSError as error:
                raise ClosedFilesError("closes the open files of the process") from error


def _same_folder() -> AbstractContextManager[Any]:
    """Return to the current folder after the body: the user's paths are relative to it."""
    try:
        return chdir(Path.cwd())
    except OSError:  # it was removed
        return nullcontext()


@contextmanager
def no_exit() -> Iterator[None]:
    """Let `os._exit` raise SystemExit in the body, but not in a process that the body forks.

    `os._exit(0)` would make a command that did nothing look successful. What calls the system itself can't be caught.
    """
    exit_now, process = os._exit, os.getpid()

    def refuse(status: int) -> None:
        if os.getpid() != process:
            exit_now(status)
        raise SystemExit(f"os._exit({status}) was called")

    os._exit = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = exit_now


@contextmanager
def _light_imports(module: str) -> Iterator[None]:
    """Raise DefectError if the body, which imports `module`, loads a heavy package or a module that uses one."""
    before = set(sys.modules)
    yield
    names = reversed(sys.modules) if HEAVY & sys.modules.keys() else ()
    for name in [name for name in names if name not in before]:  # the outermost import first
        values = getattr(sys.modules[name], "__dict__", {}).values()
        root = name.partition(".")[0]
        if packages := HEAVY & ({root} if root in HEAVY else {_package(value) for value in values}):
            through = "" if name == module or root in HEAVY else f", through {name}"
            _refused[sys.modules[module]] = (
                f"{module} imports {min(packages)} at its top{through}, which would slow down every command; "
                f"import it in the module that the factory names"
            )
            break
    if reason := _refused.get(sys.modules[module]):
        raise DefectError(reason)


def _package(value: Any) -> str:
    """Return the root package of a module, class or function."""
    name = getattr(value, "__name__" if isinstance(value, ModuleType) else "__module__", "")
    return str(name).partition(".")[0]
