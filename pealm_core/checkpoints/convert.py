"""Convert a checkpoint to a smaller one: weights only, in another precision."""

import shutil
from pathlib import Path

import torch

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.api import read_checkpoint, write_checkpoint
from pealm_core.checkpoints.tensors import check_finite, read_tensors
from pealm_core.contract.errors import PealmError, UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def to_weights(source: Path, target: Path, dtype: str | None = None) -> str:
    """Write a run's best weights or a checkpoint's as a weights-only folder, and read it again.

    dtype: "fp32", "bf16", "fp16"; None: as they are. Returns a line that says what was done. Raises PealmError.
    """
    saved = read_checkpoint(source)
    folder, tensors = saved.path, dict(saved.model)
    wanted = DTYPES[dtype] if dtype else None
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    same = all(tensor.dtype == wanted for tensor in floats.values()) if wanted else True
    if folder == source and same and not (folder / checkpoint.OPTIMIZER).exists():
        raise UserError(f"{source} has only weights already{f', in {dtype}' if dtype else ''}; nothing was written")
    if wanted is not None:
        check_finite(floats, str(folder / checkpoint.MODEL))
        cast: dict[int, torch.Tensor] = {}  # tied tensors stay tied
        for name, tensor in floats.items():
            tensors[name] = cast.setdefault(tensor.data_ptr(), tensor.to(wanted))
            if not tensors[name].isfinite().all():
                limit = torch.finfo(wanted).max
                raise UserError(f"{name} has values beyond {limit:,.0f}, the largest in {dtype}; use bf16 or fp32")
    write_checkpoint(target, model=tensors, config=saved.config, tokenizer=saved.tokenizer, state=saved.state)
    written, _ = read_tensors(target / checkpoint.MODEL)
    for name, tensor in tensors.items():
        if not torch.equal(written[name], tensor):
            shutil.rmtree(target, ignore_errors=True)
            raise PealmError(f"{target}: {name} was read back with other values; the folder was removed")
    before, after = ((f / checkpoint.MODEL).stat().st_size for f in (folder, target))
    return f"wrote {target}: {after / 1e6:,.1f} MB of weights (of {before / 1e6:,.1f} MB), read back and compared"
