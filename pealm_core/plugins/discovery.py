"""Discovery: the entry points of the group `pealm` in every installed distribution, and files that the user names.

The `*.dist-info` folders on `sys.path` are read without `importlib.metadata`, which loads the email parser: every
command would take 40 percent of a bare `import click, pluggy` longer.

A local plugin is one file without a package (`--plugin FILE.py`, `PEALM_PLUGINS`). The environment variable is the
list of a process, so that its child processes and every process of torchrun load the same files. A run or checkpoint
records files and hashes, but never adds to the list: opening one runs no code of its.
"""

import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from pealm_core.contract.errors import UserError
from pealm_core.contract.specs import Spec

VARIABLE = "PEALM_PLUGINS"
REQUIRES = r"^Requires-Dist: *pealm[-_.]core *\(?([^;()\n]*)\)?$"  # in METADATA


@dataclass(eq=False, repr=False)
class Plugin:
    """An entry point or a file: where it comes from, whether it could be loaded, what it provides.

    status: "ok", "failed" or "disabled"; `reason` explains the last two.
    """

    name: str  # of the entry point, or the file's stem
    module: str
    dist: str  # of a file: `file:NAME.py`
    version: str  # of a file: the start of its hash
    requires: str = ""  # the versions of pealm-core that it works with: ">=0.1,<0.2"
    location: str = ""
    file: Path | None = None  # of a local plugin: asked for by name, so that a failure to load is an error at once
    status: str = "ok"
    reason: str = ""
    error: BaseException | None = None
    load_ms: float = 0.0
    records: list[Spec] = field(default_factory=list)


def discover() -> list[Plugin]:
    """Return every installed plugin, sorted by distribution, then name. The first on `sys.path` wins."""
    plugins: dict[str, list[Plugin]] = {}
    for folder in (path or "." for path in sys.path):
        names: list[str] = []
        with suppress(OSError):  # Python's import ignores a folder that it can't read as well
            names = sorted(name for name in os.listdir(folder) if name.endswith(".dist-info"))  # noqa: PTH208
        for info in names:
            name, _, version = info.removesuffix(".dist-info").rpartition("-")
            dist = name.lower().replace("_", "-").replace(".", "-")
            if dist not in plugins and (text := _text(folder, info, "entry_points.txt")):
                metadata = _text(folder, info, "METADATA") if "[pealm]" in text else ""
                needs = re.search(REQUIRES, metadata, re.MULTILINE | re.IGNORECASE)
                requires = needs[1].strip() if needs else ""
                plugins[dist] = [Plugin(*pair, dist, version, requires, folder) for pair in _pairs(text)]
    return sorted((p for group in plugins.values() for p in group), key=lambda p: (p.dist, p.name))


def _pairs(text: str) -> list[tuple[str, str]]:
    """Return name and module of each entry point; what is wrong in them fails when it is imported."""
    lines = text.partition("[pealm]")[2].partition("\n[")[0].splitlines()
    pairs = [line.partition("=") for line in lines if line.strip() and line.lstrip()[0] not in "#;"]
    return [(name.strip(), module.strip()) for name, _, module in pairs]


def _text(*parts: str) -> str:
    """Return the beginning of a file, "" if it can't be read: nobody can import what it describes either.

    There may be hundreds, and a file object for each costs 2 ms in all. A pipe doesn't block.
    """
    with suppress(OSError):
        file = os.open("/".join(parts), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            return os.read(file, 2**18).decode(errors="replace")
        finally:
            os.close(file)
    return ""


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
    from hashlib import sha256
    from importlib.util import find_spec, module_from_spec, spec_from_file_location

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
