"""Adapted models: weights of a base, and what an adapter added to them. Checkpoints have only the latter."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

KEY = "_pealm_adapted"  # an attribute of adapted models


@dataclass(frozen=True)
class Adapted:
    """The adapter that was applied to a model, and the names of the tensors that the base doesn't have."""

    adapter: Any
    new: frozenset[str]


def apply(adapter: Any, model: nn.Module, resized: Collection[str] = ()) -> None:
    """Apply an adapter to a model with a base's weights. resized: tensors that differ from the base's.

    These are trained as well: their new rows, for tokens that the base does not know, are random.
    """
    before = [tensor for name, tensor in model.state_dict(keep_vars=True).items() if name not in resized]
    adapter.apply(model)
    of_base = set(map(id, before))
    new = {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) not in of_base}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        if name in resized:
            tensor.requires_grad_(True)
    model.__dict__[KEY] = Adapted(adapter, frozenset(new))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("apply leaves no parameter with requires_grad, so that nothing could be trained")


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict to save: of an adapted model what is trainable or not in its base, else all of it."""
    state: dict[str, Tensor] = model.state_dict()
    if KEY not in vars(model):
        return state
    own, new = model.state_dict(keep_vars=True), vars(model)[KEY].new
    return {name: tensor for name, tensor in state.items() if own[name].requires_grad or name in new}


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Merge an adapted model's adapter into its weights, in place; return its state dict, as of the base."""
    vars(model).pop(KEY).adapter.merge(model)
    state: dict[str, Tensor] = model.state_dict()
    return state
