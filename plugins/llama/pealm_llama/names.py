"""Hugging Face's names of the tensors, to ours and back: we have fewer and larger matrices."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

PREFIX = "model."  # before all names but lm_head's
UNUSED = ".rotary_emb.inv_freq"  # in older files; computed here
# our module → theirs, in the order of the rows
PARTS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_WHOLE = {part: whole for whole, parts in PARTS.items() for part in parts}


def fuse(tensors: Iterable[tuple[str, Tensor]], *, tied: bool) -> dict[str, Tensor]:
    """Return tensors with Hugging Face's names under ours; those with our names stay.

    Parts are joined as soon as all of them were read. Raises ValueError for incomplete parts, and for a head that
    differs from the embedding if it should be tied.
    """
    state, parts = dict[str, Tensor](), dict[str, dict[str, Tensor]]()
    for name, tensor in tensors:
        short = name.removeprefix(PREFIX)
        module, _, kind = short.rpartition(".")
        owner, _, part = module.rpartition(".")
        if (whole := _WHOLE.get(part)) is None:
            if not short.endswith(UNUSED):
                state[short] = tensor
            continue
        group = parts.setdefault(f"{owner}.{whole}.{kind}", {})
        group[part] = tensor
        if len(group) == len(PARTS[whole]):
            rows = [group[part] for part in PARTS[whole]]
            if len({(row.dtype, row.shape[1:]) for row in rows}) > 1 or not rows[0].dim():
                raise ValueError(f"the parts of {owner}.{whole}.{kind} differ in width or dtype")
            state[f"{owner}.{whole}.{kind}"] = torch.cat(rows)
            del parts[f"{owner}.{whole}.{kind}"]
    for name, group in parts.items():
        raise ValueError(f"of {name} only {' and '.join(group)} are there")
    head, tokens = state.get("lm_head.weight"), state.get("embed_tokens.weight")
    if tied and head is not None:
        if tokens is None or not torch.equal(head, tokens):
            raise ValueError("its lm_head.weight differs from embed_tokens.weight, and this model ties them")
        del state["lm_head.weight"]
    return state


def separate(state: Mapping[str, Tensor], *, n_head: int, kv_heads: int) -> dict[str, Tensor]:
    """Return our tensors under Hugging Face's names."""
    tensors = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        owner, _, whole = module.rpartition(".")
        if whole in PARTS:
            units = (n_head, kv_heads, kv_heads) if whole == "qkv_proj" else (1, 1)
            unit = len(tensor) // sum(units)
            rows = torch.split(tensor, [unit * n for n in units])
            for part, row in zip(PARTS[whole], rows, strict=True):
                tensors[f"{PREFIX}{owner}.{part}.{kind}"] = row.contiguous()
        else:
            tensors[name if name.startswith("lm_head") else PREFIX + name] = tensor
    return tensors
