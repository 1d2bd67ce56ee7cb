"""Adapted models: weights of a base, and what an adapter added to them. Checkpoints have only the latter."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

KEY = "_pealm_adapted"  # an attribute of adapted models: the adapter, and the names of tensors that the base lacks


class NewRows(nn.Module):
    """The rows of a parameter that are for tokens unknown to the base. They alone are trained."""

    def __init__(self, weight: Tensor, start: int) -> None:
        super().__init__()
        self.start, self.rows = start, nn.Parameter(weight.detach()[start:].clone())

    def forward(self, weight: Tensor) -> Tensor:
        """Return a parameter with these rows."""
        return torch.cat((weight[: self.start], self.rows))


def apply(adapter: Any, model: nn.Module, resized: Mapping[str, int | None] = MappingProxyType({})) -> None:
    """Apply an adapter to a model with a base's weights. resized: names of tensors that differ from the base's.

    These are trained as well, each from the given row on, which are for new tokens and random; None: all of it.
    """
    state = model.state_dict(keep_vars=True)
    before = {id(tensor) for name, tensor in state.items() if resized.get(name, 0) is not None}
    starts = {id(state[name]): start for name, start in resized.items()}
    adapter.apply(model)
    made: dict[int, NewRows] = {}  # one of a tied parameter, which is in several modules
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            start = starts.get(id(parameter), -1)
            if start is None:
                parameter.requires_grad_(True)
            elif start >= 0:
                rows = made.setdefault(id(parameter), NewRows(parameter, start))
                parametrize.register_parametrization(module, name, rows)
    state = model.state_dict(keep_vars=True)
    model.__dict__[KEY] = adapter, {name for name, tensor in state.items() if id(tensor) not in before}
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("apply leaves no parameter with requires_grad, so that nothing could be trained")


def fold_rows(model: nn.Module) -> None:
    """Put the rows for new tokens into their parameters, as inference has them."""
    for module in list(model.modules()):
        for name, parts in list(getattr(module, "parametrizations", {}).items()):
            if any(isinstance(part, NewRows) for part in parts):
                parametrize.remove_parametrizations(module, name)


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict to save: of an adapted model what is trainable or not in its base, else all of it."""
    state: dict[str, Tensor] = model.state_dict()
    if KEY not in vars(model):
        return state
    own, (_, new) = model.state_dict(keep_vars=True), vars(model)[KEY]
    return {name: tensor for name, tensor in state.items() if own[name].requires_grad or name in new}


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Merge an adapted model's adapter into its weights, in place; return its state dict, as of the base."""
    fold_rows(model)
    adapter, _ = vars(model).pop(KEY)
    adapter.merge(model)
    state: dict[str, Tensor] = model.state_dict()
    return state
