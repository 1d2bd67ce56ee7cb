"""Checkpoints: folders of safetensors, TOML and JSON that are either complete and valid or do not count.

    step-00000500/  model.safetensors  optimizer.safetensors  extra.safetensors  config.toml  tokenizer/  state.json
    best/           the same without optimizer and extra: weights only

A folder is written under a temporary name, synced and renamed. `state.json` is written last, with the size and
SHA-256 of every other file. Importing this module does not load torch.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from pealm_core.config.paths import digest, reason, temporary, written_aside
from pealm_core.config.toml_layers import read_regular
from pealm_core.contract.errors import InvalidCheckpointError, PealmError, UserError
from pealm_core.contract.protocols import Tokenizer, has

if TYPE_CHECKING:
    from torch import Tensor

MODEL, OPTIMIZER, EXTRA = "model.safetensors", "optimizer.safetensors", "extra.safetensors"
CONFIG, TOKENIZER, STATE, SHARDS = "config.toml", "tokenizer", "state.json", "shards"
STEPS = "checkpoints"  # in a run: the folder of its step checkpoints
# Names that only pealm gives: `.tmp` is being written or removed, `.old` has a successor, `.damaged` was skipped.
TEMPORARY = re.compile(r"\.(best|step-\d+)(\.[0-9a-f]+)?\.(tmp|old|damaged)")


def save(
    folder: Path,
    *,
    model: "Mapping[str, Tensor] | Path",
    config: Mapping[str, Any],
    tokenizer: "Tokenizer | Path",
    state: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    replace: bool = False,
    same_model: Path | None = None,
) -> None:
    """Write a checkpoint folder. Raises PealmError if the disk refuses.

    model, optimizer: state dicts; model may be a folder of shards, which is moved. tokenizer: or the folder in which
    one was saved. state: facts such as the step, which `verify` returns. extra: further state dicts by name. replace:
    whether the folder may exist. same_model: a checkpoint just written from the same `model`, whose file is linked.
    """
    from pealm_core.checkpoints.tensors import write_tensors, write_tree

    files: dict[str, tuple[int, str]] = {}
    try:
        with written_aside(folder, replace=replace) as aside:
            if same_model is not None:
                with suppress(OSError):  # some file systems have no links
                    os.link(same_model / MODEL, aside / MODEL)
                    files[MODEL] = state_of(same_model)["files"][MODEL]
            if isinstance(model, Path):
                model.rename(aside / SHARDS)
            elif not files:
                write_tensors(aside / MODEL, model)
            for name, tree in ((OPTIMIZER, optimizer), (EXTRA, extra)):
                if tree is not None:
                    write_tree(aside / name, tree)
            (aside / CONFIG).write_text(tomli_w.dumps(dict(config)), encoding="utf-8")
            for path in aside.glob("*.safetensors"):  # created readable by their owner only
                with suppress(OSError):  # some file systems have no modes
                    path.chmod((aside / CONFIG).stat().st_mode)
            if isinstance(tokenizer, Path):
                shutil.copytree(tokenizer, aside / TOKENIZER)
            else:
                (aside / TOKENIZER).mkdir()
                if has(tokenizer, "save"):
                    tokenizer.save(aside / TOKENIZER)  # type: ignore[attr-defined]
            for path in sorted(path for path in aside.rglob("*") if path.is_file()):
                name = path.relative_to(aside).as_posix()
                files[name] = files.get(name) or (path.stat().st_size, digest(path))
            (aside / STATE).write_text(json.dumps({**state, "files": files}, indent=1), encoding="utf-8")
    except OSError as error:
        raise PealmError(f"{folder}: the checkpoint could not be written: {reason(error)}") from error


def prune(run: Path, keep: int) -> None:
    """Remove the oldest step checkpoints, so that `keep` remain; 0: keep all."""
    for folder in steps(run)[:-keep] if keep else []:
        aside = temporary(folder, "tmp")
        folder.rename(aside)  # if pealm is killed now, what remains does not look like a checkpoint
        shutil.rmtree(aside, ignore_errors=True)


def tidy(run: Path) -> None:
    """Remove what interrupted saves left in a run that this process has locked. Raises UserError for a link."""
    if (run / STEPS).is_symlink():
        raise UserError(f"{run / STEPS} is a symbolic link; pealm does not write through it: replace it by a folder")
    for path in temporary_folders(run):
        if is_only_copy(path):
            path.rename(_successor(path))
        elif path.suffix != ".damaged":
            shutil.rmtree(path, ignore_errors=True)


def temporary_folders(run: Path) -> list[Path]:
    """Return what interrupted saves left in a run, and damaged checkpoints."""
    places = [run, *([] if (run / STEPS).is_symlink() else [run / STEPS])]
    paths = [path for place in places for path in place.glob(".*") if TEMPORARY.fullmatch(path.name)]
    return sorted(path for path in paths if path.is_dir() and not path.is_symlink())


def is_only_copy(path: Path) -> bool:
    """Whether a temporary folder is a complete checkpoint whose replacement was killed between two renames."""
    return path.suffix == ".old" and not _successor(path).exists()


def _successor(old: Path) -> Path:
    return old.with_name(old.name.split(".")[1])


def set_aside(run: Path, newest: Path | None) -> None:
    """Rename the damaged checkpoints after the newest valid one, so that none is mistaken for a newer one later."""
    for folder in steps(run):
        if newest is None or folder.name > newest.name:
            folder.rename(temporary(folder, "damaged"))


def verify(folder: Path, *names: str) -> dict[str, Any]:
    """Return the `state` that the folder was saved with. Raises InvalidCheckpointError if a file differs.

    names: the files to compare, or "tokenizer" for its whole folder; default: all files.
    """
    state = state_of(folder)
    files = state.pop("files")
    wanted = {name: (-1, "") for name in names if name != TOKENIZER}
    wanted |= {name: facts for name, facts in files.items() if not names or name.partition("/")[0] in names}
    for name, (size, expected) in wanted.items():
        path = folder / name
        try:
            intact = path.stat().st_size == size and digest(path) == expected
        except OSError as error:
            if (folder / SHARDS).is_dir() and name == MODEL:
                raise UserError(f"{folder} is sharded; pealm convert {folder} OUT --from sharded") from None
            raise InvalidCheckpointError(f"{path} can't be read: {error.strerror}") from None
        if not intact:
            raise InvalidCheckpointError(f"{path} is damaged: its content is not what was saved")
    return state


def state_of(folder: Path) -> dict[str, Any]:
    """Return the content of `state.json`, without looking at the files. Raises InvalidCheckpointError."""
    try:
        state: dict[str, Any] = json.loads(read_regular(folder / STATE))
        state["files"] = {str(name): (int(size), str(value)) for name, (size, value) in state["files"].items()}
        for name in state["files"]:
            if not name.isprintable() or {"", "..", "."} & set(name.split("/")):
                raise ValueError(f"{name!a:.99} is not the name of a file in it")
    except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidCheckpointError(f"{folder / STATE} can't be read: {error!r}") from None
    return state


def find(path: Path) -> Path:
    """Return the checkpoint folder that a path means: of a run its best, else its newest; a folder; a file in one."""
    if path.is_file() and path.name in (MODEL, STATE, CONFIG) and (path.parent / STATE).is_file():
        return path.parent
    replaced = [p for p in temporary_folders(path) if is_only_copy(p) and p.parent == path]
    for folder in (path, path / "best", *replaced, *reversed(steps(path))):
        if (folder / STATE).is_file():
            return folder
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give a run or a checkpoint folder")
    raise UserError(f"{path} is not a checkpoint; give a run or a checkpoint folder (with a {STATE} in it)")


def steps(run: Path) -> list[Path]:
    """Return the step checkpoints of a run, oldest first, valid or not."""
    return sorted(path for path in (run / STEPS).glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def newest(run: Path) -> tuple[Path | None, list[str]]:
    """Return the newest valid checkpoint of a run, and what is wrong with newer ones."""
    wrong: list[str] = []
    for folder in reversed(steps(run)):
        try:
            verify(folder)
            return folder, wrong
        except InvalidCheckpointError as error:
            wrong.append(str(error))
    return None, wrong
