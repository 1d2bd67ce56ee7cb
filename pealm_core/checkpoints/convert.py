"""A checkpoint as a smaller one: weights only, in another precision."""

import shutil
from pathlib import Path
from typing import Any

import torch

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.build import make_model, make_tokenizer, plan_of
from pealm_core.checkpoints.tensors import read_tensors
from pealm_core.config.layers import read_toml
from pealm_core.contract.errors import PealmError, UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _Saved:
    """A tokenizer that is only ever copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, folder: Path) -> None:
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)


def to_weights(source: Path, target: Path, dtype: str | None = None) -> str:
    """Write a run's best weights or a checkpoint's as a weights-only folder, and load it again.

    dtype: "fp32", "bf16", "fp16"; None: as they are. Gives a line that says what was done. Raises PealmError.
    """
    folder = checkpoint.find(source)
    state = checkpoint.verify(folder)
    tensors, _ = read_tensors(folder / checkpoint.MODEL)
    wanted = DTYPES[dtype] if dtype else None
    same = all(t.dtype == wanted or not t.is_floating_point() for t in tensors.values()) if wanted else True
    if folder == source and same and not (folder / checkpoint.OPTIMIZER).exists():
        return f"{source} is weights-only already; nothing was written"
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already; remove it or choose another place")
    if wanted is not None:
        cast: dict[int, torch.Tensor] = {}  # what is tied stays tied
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                tensors[name] = cast.setdefault(tensor.data_ptr(), tensor.to(wanted))
    if target.is_dir():
        target.rmdir()
    config, _ = read_toml(folder / checkpoint.CONFIG)
    saved: Any = _Saved(folder / checkpoint.TOKENIZER)
    checkpoint.save(target, model=tensors, config=config, tokenizer=saved, state=state)
    try:
        _check(target, tensors)
    except PealmError:
        shutil.rmtree(target, ignore_errors=True)
        raise
    before, after = ((f / checkpoint.MODEL).stat().st_size for f in (folder, target))
    return f"wrote {target}: {after / 1e6:,.1f} MB of weights (of {before / 1e6:,.1f} MB), read back and compared"


def _check(target: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Raise PealmError where the folder does not give the model with these tensors."""
    job = plan_of(target)
    model, _ = make_model(job, make_tokenizer(job, target / checkpoint.TOKENIZER).vocab_size)
    checkpoint.load_model(model, target)
    own = model.state_dict()
    for name, tensor in tensors.items():
        if not torch.equal(own[name].to(tensor.dtype), tensor):
            raise PealmError(f"{target}: {name} was not read back as it was written; nothing was kept")
