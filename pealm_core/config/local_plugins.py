"""`[plugins] files`: a config that the user names loads these files, a run's or checkpoint's own only records them.

`[versions]` of a run has the start of each file's SHA-256, as `file:NAME.py`. Nothing here runs code of a run's own.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote

from pealm_core.config.toml_layers import Layer
from pealm_core.contract.errors import UserError
from pealm_core.plugins.discovery import use_plugin
from pealm_core.plugins.loading import PluginHost


def files_of(config: Layer) -> list[str]:
    """Return the files that a config names. Raises UserError."""
    table = config.tables.get("plugins", {})
    files = table.get("files", []) if isinstance(table, Mapping) and table.keys() <= {"files"} else None
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise UserError(f'{config.place("plugins", "files")} must be a list of files: files = ["my_model.py"]')
    return files


def load_files(config: Layer) -> bool:
    """Load the files of a config that the user named, and say whether there are any. Raises UserError."""
    path, files = Path(config.origin), files_of(config)
    if "versions" in config.tables or any((path.parent / name).exists() for name in ("run.json", "state.json")):
        return False  # a run's or checkpoint's own
    for file in files:
        use_plugin(path.parent / file)
    return bool(files)


def missing(config: Layer, host: PluginHost) -> str:
    """Return the options that load the files of a saved config that are not loaded; "" if all are."""
    loaded = {plugin.dist for plugin in host.plugins}
    files = (file for file in files_of(config) if f"file:{Path(file).name}" not in loaded)
    return " ".join(f"--plugin {quote(file)}" for file in files)


def differences(config: Layer | None, host: PluginHost, *, lost: bool = True) -> Iterator[str]:
    """Yield a line for each file that changed since a saved config was written. lost: one for those not loaded."""
    if config is None or "versions" not in config.tables:
        return
    for plugin in host.plugins:
        if plugin.file and plugin.version != config.tables["versions"].get(plugin.dist, plugin.version):
            yield f"{plugin.file} has changed since {config.origin} was written"
    if lost and (options := missing(config, host)):
        yield f"{config.origin} was made with {options}, which is not loaded now"
