"""`pealm convert --from sharded`: a sharded checkpoint as an ordinary one, with weights only."""

import hashlib
import json
import tomllib
from pathlib import Path

from pealm_core import UserError, write_checkpoint
from pealm_fsdp import shards


def newest(path: Path) -> Path | None:
    """Return the sharded checkpoint that a path means: a checkpoint, or of a run its newest."""
    folders = [path, *sorted(path.glob("checkpoints/step-*"), reverse=True)]
    return next((folder for folder in folders if (folder / "shards").is_dir()), None)


def detect(path: Path) -> bool:
    """Return whether a path is a sharded checkpoint or a run with one."""
    return newest(path) is not None


def to_full(source: Path, target: Path) -> None:
    """Write the weights of a sharded checkpoint. Raises UserError if it is damaged."""
    folder = newest(source)
    if folder is None:
        raise UserError(f"{source} has no sharded checkpoint; an ordinary one needs no --from")
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        for name, (size, expected) in state.pop("files").items():
            if not name.startswith("optimizer."):
                with (folder / name).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != expected or file.tell() != size:
                        raise ValueError(f"{name} is not what was saved")
        config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is damaged: {error}") from None
    tensors = shards.weights(folder / "shards")
    write_checkpoint(target, model=tensors, config=config, tokenizer=folder / "tokenizer", state=state)
