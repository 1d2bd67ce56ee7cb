"""Low-rank adaptation (Hu et al. 2021): a frozen matrix W gets a trained update, W + (alpha / rank) B A.

A is (rank, in) and random, B is (out, rank) and starts at zero, so that the model's numbers don't change at first.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pealm_core import UserError
from pealm_lora.config import LoraConfig

ATTENTION = ("attn", "attention")  # in the names of attention modules


class LowRank(nn.Module):
    """The update of one matrix, or of each slice of a 3-D parameter (n, out, in)."""

    def __init__(self, weight: Tensor, config: LoraConfig) -> None:
        super().__init__()
        *stack, rows, columns = weight.shape
        kind: Any = {"device": weight.device, "dtype": weight.dtype}
        self.a = nn.Parameter(torch.randn(*stack, config.rank, columns, **kind) * columns**-0.5)
        self.b = nn.Parameter(torch.zeros(*stack, rows, config.rank, **kind))
        self.scale, self.dropout = config.alpha / config.rank, config.dropout

    def update(self) -> Tensor:
        """Return the update as a matrix."""
        return self.scale * (self.b @ self.a)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated matrix, for a parameter that is not the weight of an `nn.Linear`; without dropout."""
        return weight + self.update()


class LoraLinear(nn.Module):
    """A linear layer and its update. W B A is never made: no gradient of W's size is needed."""

    def __init__(self, linear: nn.Linear, config: LoraConfig) -> None:
        super().__init__()
        self.linear, self.lora = linear, LowRank(linear.weight, config)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        low = self.lora
        y = self.linear(x)
        inner = F.linear(F.dropout(x, low.dropout, self.training), low.a) * low.scale  # (..., rank)
        # One pass over y for product and sum.
        return torch.addmm(y.flatten(0, -2), inner.flatten(0, -2), low.b.t()).view(y.shape)


class Lora:
    """The adapter `lora`."""

    def __init__(self, config: LoraConfig | None = None) -> None:
        self.config = config or LoraConfig()

    def apply(self, model: nn.Module) -> None:
        """Freeze the model and add an update to each chosen matrix."""
        chosen = list(self._targets(model))
        if not chosen:
            kind = type(model).__name__
            if self.config.targets == "all":
                raise UserError(f"--adapter lora: {kind} has no linear layers to update")
            names = " or ".join(ATTENTION)
            raise UserError(f"--adapter lora: {kind} has no layers named {names}; try --adapter.targets all")
        model.requires_grad_(False)
        for parent, name, matrix in chosen:
            if isinstance(matrix, nn.Linear):
                setattr(parent, name, LoraLinear(matrix, self.config))
            else:
                assert isinstance(matrix, nn.Parameter)
                parametrize.register_parametrization(parent, name, LowRank(matrix, self.config))

    def merge(self, model: nn.Module) -> None:
        """Add the updates to the matrices, and remove them."""
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, LoraLinear):
                    with torch.no_grad():
                        child.linear.weight += child.lora.update()
                    setattr(module, name, child.linear)
            for name in list(getattr(module, "parametrizations", ())):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)

    def _targets(self, model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module | nn.Parameter]]:
        """Yield (module, attribute, linear layer or bare matrix) for each matrix to update.

        Left alone: what is used in several places, such as a tied head, and a head that gives the logits.
        """
        uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
        vocab_size = getattr(getattr(model, "config", None), "vocab_size", None)
        for path, module in list(model.named_modules()):
            matrices: list[tuple[str, nn.Module | nn.Parameter, Tensor]] = []
            for name, child in module.named_children():
                if type(child) is nn.Linear and not (module is model and child.out_features == vocab_size):
                    matrices.append((name, child, child.weight))
            if module is not model and not type(module).__module__.startswith("torch."):
                own = module.named_parameters(recurse=False)
                matrices += [(name, p, p) for name, p in own if p.dim() in (2, 3) and min(p.shape[-2:]) > 1]
            for name, part, matrix in matrices:
                attention = any(word in f"{path}.{name}".lower() for word in ATTENTION)
                if uses[id(matrix)] == 1 and (attention or self.config.targets == "all"):
                    yield module, name, part
