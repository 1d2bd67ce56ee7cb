"""Checkpoints: folders of safetensors, TOML and JSON that are valid whole or not at all.

    step-00000500/  model.safetensors  optimizer.safetensors  config.toml  tokenizer/  state.json
    best/           the same without the optimizer: weights only

A folder is written aside, synced and renamed. `state.json` is written last and holds size and SHA-256 of every
other file; only a folder in which it agrees counts. Importing this room loads no torch.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from pealm_core.contract.errors import InvalidCheckpointError, PealmError, UserError
from pealm_core.contract.protocols import Tokenizer, has

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MODEL, OPTIMIZER, CONFIG, TOKENIZER, STATE = (
    "model.safetensors",
    "optimizer.safetensors",
    "config.toml",
    "tokenizer",
    "state.json",
)


def save(
    folder: Path,
    *,
    model: "Mapping[str, Tensor]",
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    state: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> None:
    """Write a checkpoint folder. Raises PealmError where the disk refuses.

    model, optimizer: state dicts. state: facts such as the step, which `verify` gives back. replace: one that is
    there is replaced at once, and `NAME.old` beside it is the writer's own; else there must be none.
    """
    from pealm_core.checkpoints.tensors import write_optimizer, write_tensors

    aside, old = folder.with_name(f".{folder.name}.{os.getpid()}.tmp"), folder.with_name(f"{folder.name}.old")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        write_tensors(aside / MODEL, model)
        if optimizer is not None:
            write_optimizer(aside / OPTIMIZER, optimizer)
        (aside / CONFIG).write_text(tomli_w.dumps(dict(config)), encoding="utf-8")
        for path in aside.glob("*.safetensors"):  # which are made for their owner alone
            path.chmod((aside / CONFIG).stat().st_mode)
        (aside / TOKENIZER).mkdir()
        if has(tokenizer, "save"):
            tokenizer.save(aside / TOKENIZER)  # type: ignore[attr-defined]
        files = {
            path.relative_to(aside).as_posix(): _seal(path) for path in sorted(aside.rglob("*")) if path.is_file()
        }
        facts = {**state, "files": files}
        (aside / STATE).write_text(json.dumps({**facts, "sha256": _facts(facts)}, indent=1), encoding="utf-8")
        for path in (aside / STATE, aside / TOKENIZER, aside):
            _sync(path)
        if replace and folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        aside.rename(folder)
        _sync(folder.parent)
        if replace:
            shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if replace and folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        if isinstance(error, OSError):
            raise PealmError(f"{folder}: the checkpoint could not be written: {error}") from error
        raise


def prune(run: Path, keep: int) -> None:
    """Remove the oldest step checkpoints, so that `keep` remain; 0: keep all."""
    for folder in steps(run)[: -keep or len(steps(run))] if keep else []:
        aside = folder.with_name(f".{folder.name}.tmp")
        folder.rename(aside)  # whatever a kill leaves of it is no checkpoint
        shutil.rmtree(aside, ignore_errors=True)


def tidy(run: Path) -> None:
    """Remove what interrupted saves left behind in a run that nobody else holds."""
    # By their names alone: a run's folder may hold other things, too.
    numbered = run / "checkpoints"
    for folder, aside, replaced in ((run, ".best.*.tmp", "best.old"), (numbered, ".step-*.tmp", "step-*.old")):
        for path in folder.glob(aside):
            shutil.rmtree(path, ignore_errors=True)
        for old in folder.glob(replaced):
            if (new := old.with_name(old.name.removesuffix(".old"))).exists():
                shutil.rmtree(old, ignore_errors=True)
            else:  # killed between two renames
                old.rename(new)


def set_aside(run: Path, newest: Path | None) -> None:
    """Rename the damaged checkpoints behind the newest valid one, so that none counts as newer than those to come."""
    for folder in steps(run):
        if newest is None or folder.name > newest.name:
            aside = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)


def verify(folder: Path, *names: str) -> dict[str, Any]:
    """What `state` held when the folder was saved. Raises InvalidCheckpointError where a file differs.

    names: the files to look at; all of them where none is named.
    """
    state = state_of(folder)
    for name, (size, digest) in state.pop("files").items():
        if names and name not in names:
            continue
        path = folder / name
        try:
            if not path.is_file():
                raise InvalidCheckpointError(f"{path} is missing from the checkpoint")
            if path.stat().st_size != size:
                raise InvalidCheckpointError(f"{path} has {path.stat().st_size:,} bytes, and {size:,} were saved")
            if _digest(path) != digest:
                raise InvalidCheckpointError(f"{path} is damaged: its content is not what was saved")
        except OSError as error:
            raise InvalidCheckpointError(f"{path} can't be read: {error.strerror}") from None
    return state


def state_of(folder: Path) -> dict[str, Any]:
    """What `state.json` says, nothing checked against the files. Raises InvalidCheckpointError."""
    try:
        text = (folder / STATE).read_text(encoding="utf-8")
        state: dict[str, Any] = json.loads(text)
        whole = text == json.dumps(state, indent=1) and state.pop("sha256") == _facts(state)
        state["files"] = {str(name): (int(size), str(digest)) for name, (size, digest) in state["files"].items()}
    except FileNotFoundError:
        raise InvalidCheckpointError(f"{folder} is no checkpoint: it has no {STATE}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidCheckpointError(f"{folder / STATE} can't be read: {error!r}") from None
    if not whole:
        raise InvalidCheckpointError(f"{folder / STATE} is damaged: its content is not what was saved")
    return state


def find(path: Path) -> Path:
    """The checkpoint folder that a path means: a run (its best, else its newest), a folder, or a file in one."""
    if path.is_file() and path.name in (MODEL, STATE, CONFIG) and (path.parent / STATE).is_file():
        path = path.parent
    if (path / STATE).is_file():
        return path
    for name in ("best", "best.old"):
        if (path / name / STATE).is_file():
            return path / name
    found = steps(path)
    if found:
        return found[-1]
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give a run or a checkpoint folder")
    raise UserError(f"{path} is no checkpoint; give a run or a checkpoint folder (with a {STATE} in it)")


def steps(run: Path) -> list[Path]:
    """The step checkpoints of a run, oldest first, valid or not."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def newest(run: Path) -> tuple[Path | None, list[str]]:
    """The newest valid checkpoint of a run, and what is wrong with newer ones."""
    wrong: list[str] = []
    for folder in reversed(steps(run)):
        try:
            verify(folder)
            return folder, wrong
        except InvalidCheckpointError as error:
            wrong.append(str(error))
    return None, wrong


def load_model(model: "torch.nn.Module", folder: Path) -> None:
    """Load the folder's weights into a model. Raises UserError that names what does not fit, with both shapes."""
    from pealm_core.checkpoints.tensors import read_tensors

    tensors, _ = read_tensors(folder / MODEL)
    load_tensors(model, tensors, str(folder / MODEL))


def load_tensors(model: "torch.nn.Module", tensors: "Mapping[str, Tensor]", where: str) -> None:
    """Load a state dict into a model. Raises UserError that names what does not fit, with both shapes."""
    own = model.state_dict()
    mistakes = [f"{name} is missing" for name in own if name not in tensors]
    mistakes += [f"{name} is not the model's" for name in tensors if name not in own]
    mistakes += [
        f"{name} is {tuple(tensors[name].shape)} there and {tuple(own[name].shape)} in the model"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if mistakes:
        more = f" (and {len(mistakes) - 3} more)" if len(mistakes) > 3 else ""
        raise UserError(f"{where} does not fit the model: {'; '.join(mistakes[:3])}{more}")
    model.load_state_dict(tensors)


def _seal(path: Path) -> tuple[int, str]:
    _sync(path)
    return path.stat().st_size, _digest(path)


def _facts(facts: Mapping[str, Any]) -> str:
    """A hash of what state.json says beside it."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
