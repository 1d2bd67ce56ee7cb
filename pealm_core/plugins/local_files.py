"""Local plugins: hooks from one file that the user names (`--plugin FILE.py`, `PEALM_PLUGINS`), without a package.

The environment variable is the list of a process, so that its child processes and every process of torchrun load the
same files. A run or checkpoint records files and hashes, but never adds to the list: opening one runs no code of its.
"""

import os
import sys
from hashlib import sha256
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import walk_tb
from types import ModuleType

from pealm_core.contract.errors import UserError
from pealm_core.plugins.discovery import Plugin

VARIABLE = "PEALM_PLUGINS"


def use_plugin(file: Path | str) -> None:
    """Load the hooks of a file from now on, as `pealm --plugin FILE.py` does. Raises UserError."""
    path = os.path.abspath(file)  # noqa: PTH100 (Path.absolute keeps "..")
    if os.pathsep in path:
        raise UserError(f"--plugin {file}: a path with {os.pathsep!r} can't be used; rename it")
    os.environ[VARIABLE] = os.pathsep.join([os.environ.get(VARIABLE, ""), path])


def local_plugins() -> list[Plugin]:
    """Return the plugins of this process's files, in the order in which they were named."""
    names = filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))
    paths = dict.fromkeys(Path(os.path.abspath(name)) for name in names)  # noqa: PTH100
    return [Plugin(path.stem, path.stem, f"file:{path.name}", "", file=path) for path in paths]


def import_file(plugin: Plugin) -> ModuleType:
    """Import a plugin's file under its stem, once, and set its version, the hash. Raises UserError."""
    path, name, module = plugin.file, plugin.module, sys.modules.get(plugin.module)
    assert path is not None
    if not path.is_file():
        raise UserError("is not a file" if path.exists() else "no such file")
    if path.suffix != ".py" or not name.isidentifier():
        raise UserError("a plugin's file has a name like my_model.py")
    spec = find_spec(name) if module is None else None
    place = getattr(module, "__file__", None) if spec is None else spec.origin
    if (module or spec) and not (place and Path(place).exists() and path.samefile(place)):
        raise UserError(f"a module {name!r} exists already ({place or 'built in'}); rename the file")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror}") from None
    if module is None:
        spec = spec_from_file_location(name, path)
        assert spec is not None
        module = sys.modules[name] = module_from_spec(spec)
        try:
            exec(compile(source, str(path), "exec"), vars(module))  # never an outdated .pyc, and none beside the file
        except BaseException:
            del sys.modules[name]
            raise
    # Of what was imported, not of what is there now.
    plugin.version = vars(module).setdefault("__pealm_version__", sha256(source).hexdigest()[:12])
    return module


def line_of(error: BaseException, file: Path | None) -> str:
    """Return ` (line 12)`, the last line of a local plugin's file that an error passed through."""
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == str(file)]
    return f" (line {lines[-1]})" if lines else ""
