"""Local plugins: hooks from one file that the user names (`--plugin FILE.py`, `PEALM_PLUGINS`), without a package.

The environment variable is the list of a process, so that its child processes and every process of torchrun load the
same files. A run or checkpoint records files and hashes, but never adds to the list: opening one runs no code of its.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from shlex import quote
from traceback import walk_tb
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from pealm_core.contract.errors import UserError
from pealm_core.plugins.discovery import Plugin

VARIABLE = "PEALM_PLUGINS"

_hashes: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()  # of what was imported, not of what is there now


def use_plugin(file: Path | str) -> None:
    """Load the hooks of a file from now on, as `pealm --plugin FILE.py` does. Raises UserError."""
    path = Path(os.path.abspath(file))  # noqa: PTH100 (Path.absolute keeps "..")
    if os.pathsep in str(path):
        raise UserError(f"--plugin {file}: a path with {os.pathsep!r} can't be used; rename it")
    os.environ[VARIABLE] = os.pathsep.join(map(str, dict.fromkeys([*_paths(), path])))


def local_plugins() -> list[Plugin]:
    """Return the plugins of this process's files, in the order in which they were named."""
    return [Plugin(path.stem, path.stem, f"file:{path.name}", "", file=path) for path in _paths()]


def _paths() -> list[Path]:
    names = filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))
    return list(dict.fromkeys(Path(os.path.abspath(name)) for name in names))  # noqa: PTH100


def import_file(plugin: Plugin) -> ModuleType:
    """Import a plugin's file under its stem, once, and set the plugin's hash. Raises UserError for a taken name."""
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
    if module is None:
        try:
            source = path.read_bytes()
        except OSError as error:
            raise UserError(f"can't be read: {error.strerror}") from None
        spec = spec_from_file_location(name, path)
        assert spec is not None
        module = sys.modules[name] = module_from_spec(spec)
        try:
            exec(compile(source, str(path), "exec"), vars(module))  # never an outdated .pyc, and none beside the file
        except BaseException:
            del sys.modules[name]
            raise
        _hashes[module] = sha256(source).hexdigest()
    plugin.sha256 = _hashes.get(module) or sha256(path.read_bytes()).hexdigest()
    plugin.version = plugin.sha256[:12]
    return module


def line_of(error: BaseException, file: Path | None) -> str:
    """Return ` (line 12)`, the last line of a local plugin's file that an error passed through."""
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == str(file)]
    return f" (line {lines[-1]})" if lines else ""


def saved_files(plugins: Iterable[Plugin]) -> dict[str, list[str]]:
    """Return the loaded files and their hashes as `[plugins]` of a run's or checkpoint's config; {} without any."""
    files = {str(plugin.file): plugin.sha256 for plugin in plugins if plugin.file and plugin.status == "ok"}
    return {"files": list(files), "sha256": list(files.values())} if files else {}


def missing_files(table: Any, plugins: Iterable[Plugin]) -> list[str]:
    """Return the files of a saved config that are not loaded."""
    return [file for file, plugin, _ in _compare(table, plugins) if plugin is None]


def plugin_options(files: Iterable[str]) -> str:
    """Return the options that load these files, to copy into a command line."""
    return " ".join(f"--plugin {quote(file)}" for file in files)


def differences(table: Any, plugins: Iterable[Plugin], origin: str) -> Iterator[str]:
    """Yield a line for each file that has changed since a saved config was written, and one for those not loaded."""
    plugins = list(plugins)
    for _, plugin, same in _compare(table, plugins):
        if plugin is not None and not same:
            yield f"{plugin.file} has changed since {origin} was written"
    if files := missing_files(table, plugins):
        yield f"{origin} was made with {plugin_options(files)}, which is not loaded now"


def _compare(table: Any, plugins: Iterable[Plugin]) -> Iterator[tuple[str, Plugin | None, bool]]:
    """Yield (file, the loaded plugin of that name, whether its content is the same) of a saved config's table.

    The table may come from anyone: what is not as `saved_files` writes it is ignored.
    """
    loaded = {plugin.dist: plugin for plugin in plugins if plugin.file and plugin.status == "ok"}
    lists = [table.get(key) for key in ("files", "sha256")] if isinstance(table, Mapping) else []
    columns = [column for column in lists if isinstance(column, list)]
    for file, digest in zip(*columns, strict=False) if len(columns) == 2 else ():
        plugin = loaded.get(f"file:{Path(str(file)).name}")
        yield str(file), plugin, plugin is not None and plugin.sha256 == digest
