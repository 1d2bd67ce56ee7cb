"""What a plugin's code must not do while it is imported: write to stdout, end the process, import a heavy package.

It may change the current folder, which is restored. Nothing is blocked: what was imported is looked at afterwards, so
that an optional import of a dependency (`try: import numpy`) works as usual.
"""

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from types import ModuleType
from typing import Any

from pealm_core.contract.errors import PluginError

# Each of these packages takes longer to import than all of `pealm --help`.
HEAVY = frozenset(
    """
    datasets huggingface_hub jax jaxlib lm_eval matplotlib numba numpy onnx onnxruntime pandas PIL pyarrow
    requests safetensors scipy sentencepiece sklearn tensorflow tiktoken tokenizers torch torchaudio torchvision
    transformers
    """.split()  # noqa: SIM905 (a list of thirty strings reads worse)
)


class DefectError(Exception):
    """A plugin's defect, described by a message that needs no exception name."""


class ClosedFilesError(PluginError):
    """A plugin closed all open files, stdout's copy among them: what the command prints would be lost."""


@contextmanager
def guarded(module: str, *, light: bool = True) -> Iterator[None]:
    """Import a plugin's module in the body. light: a heavy import in it is a DefectError.

    What is printed goes to stderr, also by native code and processes: stdout is for results.
    """
    before, folder, stdout = set(sys.modules), "", -1
    with suppress(OSError):  # it was removed
        folder = os.getcwd()  # noqa: PTH109
    with suppress(OSError):  # one of them is closed
        stdout = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr), no_exit():
            yield
    finally:
        with suppress(OSError):
            os.chdir(folder)  # the user's paths are relative to it
        if stdout >= 0:
            try:
                os.dup2(stdout, 1)
                os.close(stdout)
            except OSError as error:
                reason = f"importing {module} closes the open files of the process"
                raise ClosedFilesError(f"{reason}; PEALM_DISABLE_PLUGINS skips a plugin") from error
    if light:
        _check_light(module, before)


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


def _check_light(module: str, before: Collection[str]) -> None:
    """Raise DefectError if importing `module` loaded a heavy package or a module that uses one, now or earlier."""
    facts = vars(sys.modules[module])
    names = reversed(sys.modules) if HEAVY & sys.modules.keys() else ()
    for name in [name for name in names if name not in before]:  # the outermost import first
        values = getattr(sys.modules[name], "__dict__", {}).values()
        root = name.partition(".")[0]
        if packages := HEAVY & ({root} if root in HEAVY else {_package(value) for value in values}):
            through = "" if name == module or root in HEAVY else f", through {name}"
            facts["__pealm_heavy__"] = (  # they stay loaded: the next import costs nothing
                f"{module} imports {min(packages)} at its top{through}, which would slow down every command; "
                f"import it in the module that the factory names"
            )
            break
    if reason := facts.get("__pealm_heavy__"):
        raise DefectError(reason)


def _package(value: Any) -> str:
    """Return the root package of a module, class or function."""
    name = getattr(value, "__name__" if isinstance(value, ModuleType) else "__module__", "")
    return str(name).partition(".")[0]
