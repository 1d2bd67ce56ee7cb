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
from hashlib import sha256
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import walk_tb
from types import ModuleType

from pealm_core.contract.errors import UserError
from pealm_core.contract.specs import Spec

VARIABLE = "PEALM_PLUGINS"


@dataclass
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
    for folder in sys.path:
        files: list[Path] = []
        with suppress(OSError):  # Python's import ignores a folder that it can't read as well
            files = sorted(Path(folder or ".").glob("*.dist-info/entry_points.txt"))
        for file in files:
            name, _, version = file.parent.stem.rpartition("-")
            dist = re.sub(r"[-_.]+", "-", name).lower()
            if dist not in plugins:
                plugins[dist] = _read(file, dist, version)
    return sorted((p for group in plugins.values() for p in group), key=lambda p: (p.dist, p.name))


def _read(file: Path, dist: str, version: str) -> list[Plugin]:
    """Return the plugins of an `entry_points.txt`; what is wrong in it fails when it is imported."""
    lines = _text(file).partition("[pealm]")[2].partition("\n[")[0].splitlines()
    pairs = [line.partition("=") for line in lines if line.strip() and line.lstrip()[0] not in "#;"]
    metadata = _text(file.with_name("METADATA")) if pairs else ""
    needs = re.search(r"^Requires-Dist: *pealm[-_.]core *\(?([^;()\n]*)\)?$", metadata, re.MULTILINE | re.IGNORECASE)
    requires, location = needs[1].strip() if needs else "", str(file.parents[1])
    return [Plugin(name.strip(), module.strip(), dist, version, requires, location) for name, _, module in pairs]


def _text(file: Path) -> str:
    try:
        if not file.is_file():
            return ""
        with file.open("rb") as stream:
            return stream.read(2**20).decode(errors="replace")
    except OSError:  # nobody can import what it describes either
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
