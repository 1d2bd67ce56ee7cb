"""Checkpoints: folders of safetensors, TOML and JSON that are either complete and valid or do not count.

    step-00000500/  model.safetensors  optimizer.safetensors  config.toml  tokenizer/  state.json
    best/           the same without the optimizer: weights only

A folder is written under a temporary name, synced and renamed. `state.json` is written last, with the size and
SHA-256 of every other file. Importing this module does not load torch.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from pealm_core.config.paths import sync
from pealm_core.contract.errors import InvalidCheckpointError, PealmError, UserError
from pealm_core.contract.protocols import Tokenizer, has

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MODEL, OPTIMIZER, CONFIG = "model.safetensors", "optimizer.safetensors", "config.toml"
TOKENIZER, STATE = "tokenizer", "state.json"
STEPS = "checkpoints"  # in a run: the folder of its step checkpoints
# Names that only pealm gives: `.tmp` is being written or removed, `.old` has a successor, `.damaged` was skipped.
TEMPORARY = re.compile(r"\.(best|step-\d+)(\.[0-9a-f]+)?\.(tmp|old|damaged)")


def save(
    folder: Path,
    *,
    model: "Mapping[str, Tensor]",
    config: Mapping[str, Any],
    tokenizer: "Tokenizer | Path",
    state: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None = None,
    replace: bool = False,
    same_model: Path | None = None,
) -> None:
    """Write a checkpoint folder. Raises PealmError if the disk refuses.

    model, optimizer: state dicts. tokenizer: or the folder in which one was saved. state: facts such as the step,
    which `verify` returns. replace: whether the folder may exist. same_model: a checkpoint that was just written from
    the same `model`; its file is hard-linked instead of written and hashed again.
    """
    from pealm_core.checkpoints.tensors import write_optimizer, write_tensors

    aside, old = _temporary(folder, "tmp"), _temporary(folder, "old")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.parent.name == STEPS:
            step_folder(folder.parent.parent)  # refuses a link
        aside.mkdir()
        linked = same_model is not None and _link(same_model / MODEL, aside / MODEL)
        if not linked:
            write_tensors(aside / MODEL, model)
        if optimizer is not None:
            write_optimizer(aside / OPTIMIZER, optimizer)
        (aside / CONFIG).write_text(tomli_w.dumps(dict(config)), encoding="utf-8")
        for path in aside.glob("*.safetensors"):  # created readable by their owner only
            with suppress(OSError):  # some file systems have no modes
                path.chmod((aside / CONFIG).stat().st_mode)
        (aside / TOKENIZER).mkdir()
        if isinstance(tokenizer, Path):
            shutil.copytree(tokenizer, aside / TOKENIZER, dirs_exist_ok=True)
        elif has(tokenizer, "save"):
            tokenizer.save(aside / TOKENIZER)  # type: ignore[attr-defined]
        files = {MODEL: state_of(same_model)["files"][MODEL]} if linked and same_model else {}
        for path in sorted(path for path in aside.rglob("*") if path.is_file()):
            if (name := path.relative_to(aside).as_posix()) not in files:
                sync(path)
                files[name] = (path.stat().st_size, _digest(path))
        (aside / STATE).write_text(json.dumps({**state, "files": files}, indent=1), encoding="utf-8")
        sync(aside / STATE)
        for path in (aside / TOKENIZER, aside):
            sync(path)
        if replace and folder.exists():
            folder.rename(old)
        aside.rename(folder)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            with suppress(OSError):
                old.rename(folder)
        if isinstance(error, OSError):
            raise PealmError(f"{folder}: the checkpoint could not be written: {error}") from error
        raise


def step_folder(run: Path) -> Path:
    """Return where a run's step checkpoints are written. Raises UserError if it is a symbolic link."""
    folder = run / STEPS
    if folder.is_symlink():
        raise UserError(f"{folder} is a symbolic link; pealm does not write through it: replace it by a folder")
    return folder


def prune(run: Path, keep: int) -> None:
    """Remove the oldest step checkpoints, so that `keep` remain; 0: keep all."""
    step_folder(run)
    for folder in steps(run)[: -keep or len(steps(run))] if keep else []:
        aside = _temporary(folder, "tmp")
        folder.rename(aside)  # if pealm is killed now, what remains does not look like a checkpoint
        shutil.rmtree(aside, ignore_errors=True)


def tidy(run: Path) -> None:
    """Remove what interrupted saves left in a run that this process has locked."""
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
    """Return the place of the checkpoint that replaced another one."""
    return old.with_name(old.name.removeprefix(".").partition(".")[0])


def set_aside(run: Path, newest: Path | None) -> None:
    """Rename the damaged checkpoints after the newest valid one, so that none is mistaken for a newer one later."""
    for folder in steps(step_folder(run).parent):
        if newest is None or folder.name > newest.name:
            folder.rename(_temporary(folder, "damaged"))


def verify(folder: Path, *names: str) -> dict[str, Any]:
    """Return the `state` that the folder was saved with. Raises InvalidCheckpointError if a file differs.

    names: the files to compare, or "tokenizer" for its whole folder; default: all files.
    """
    state = state_of(folder)
    files = state.pop("files")
    for name in [*files, *(name for name in names if name not in files and name != TOKENIZER)]:
        if names and name not in names and name.partition("/")[0] not in names:
            continue
        path = folder / name
        try:
            if name not in files or not path.is_file():
                raise InvalidCheckpointError(f"{path} is missing from the checkpoint")
            size, digest = files[name]
            if path.stat().st_size != size:
                raise InvalidCheckpointError(f"{path} has {path.stat().st_size:,} bytes instead of {size:,}")
            if _digest(path) != digest:
                raise InvalidCheckpointError(f"{path} is damaged: its content is not what was saved")
        except OSError as error:
            raise InvalidCheckpointError(f"{path} can't be read: {error.strerror}") from None
    return state


def state_of(folder: Path) -> dict[str, Any]:
    """Return the content of `state.json`, without looking at the files. Raises InvalidCheckpointError."""
    path = folder / STATE
    try:
        if not path.is_file():
            raise InvalidCheckpointError(f"{folder} is not a checkpoint: it has no {STATE}")
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        state.pop("sha256", None)  # a hash of the file itself, by earlier versions
        state["files"] = {str(name): (int(size), str(digest)) for name, (size, digest) in state["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidCheckpointError(f"{path} can't be read: {error!r}") from None
    return state


def find(path: Path) -> Path:
    """Return the checkpoint folder that a path means: of a run its best, else its newest; a folder; a file in one."""
    if path.is_file() and path.name in (MODEL, STATE, CONFIG) and (path.parent / STATE).is_file():
        path = path.parent
    if (path / STATE).is_file():
        return path
    if (path / "best" / STATE).is_file():
        return path / "best"
    replaced = [p for p in temporary_folders(path) if is_only_copy(p) and p.parent == path]
    if candidates := replaced or steps(path):
        return candidates[-1]
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


def load_model(model: "torch.nn.Module", folder: Path) -> None:
    """Load the folder's weights into a model. Raises UserError that names each mismatch."""
    from pealm_core.checkpoints.tensors import load_tensors, read_tensors

    tensors, _ = read_tensors(folder / MODEL)
    load_tensors(model, tensors, str(folder / MODEL))


def _temporary(folder: Path, ending: str) -> Path:
    """Return a name beside a folder that nothing else has."""
    return folder.with_name(f".{folder.name}.{os.urandom(6).hex()}.{ending}")


def _link(source: Path, target: Path) -> bool:
    """Hard-link a file if the file system can. Files in checkpoints are only ever replaced, never changed."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        return False
    return True


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
