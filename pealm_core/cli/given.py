"""Where a command's config comes from besides its words: a file, a run, a checkpoint. No torch here."""

from pathlib import Path

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.cli.components import FirstPass
from pealm_core.config.job import file_layer
from pealm_core.config.layers import Layer
from pealm_core.contract.errors import UserError


def config_or_run(peek: FirstPass) -> Layer | None:
    """Training's config: `--config`, else that of the run which `--out` holds."""
    if "config" in peek.options:
        return file_layer(Path(peek.options["config"]))
    saved = Path(peek.options["out"]) / checkpoint.CONFIG if peek.options.get("out") else None
    return file_layer(saved) if saved and saved.exists() else None


def checkpoint_config(peek: FirstPass) -> Layer | None:
    """The config of `--ckpt`. Raises UserError where it is no checkpoint, or one of another model."""
    if not peek.options.get("ckpt"):
        return None
    folder = checkpoint.find(Path(peek.options["ckpt"]))
    checkpoint.verify(folder, checkpoint.CONFIG)
    file = file_layer(folder / checkpoint.CONFIG)
    name = file.tables.get("model", {}).get("name")
    if peek.model and name != peek.model and str(name).rpartition("/")[2] != peek.model.rpartition("/")[2]:
        raise UserError(f"{folder} is a checkpoint of {name!r}, not of {peek.model!r}")
    return file
