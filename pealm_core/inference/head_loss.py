"""The loss of a model's head. Where the head is not trained, its logits are not kept."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pealm_core.contract.training_parts import IGNORE

ROWS = 512  # of logits at a time


def head_loss(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of a head's logits. x: (B, T, C), weight: (V, C), bias: (V), targets: (B, T).

    On a CPU, targets that are IGNORE take no time. If x needs a gradient and the head does not, as below an adapter,
    the gradient is computed beside the loss, some rows at a time, which takes less memory.
    """
    if torch.is_grad_enabled() and x.requires_grad and not weight.requires_grad:
        loss: Tensor = _FrozenHead.apply(x.flatten(0, 1), weight, bias, targets.flatten())  # type: ignore[no-untyped-call]
        return loss
    if x.device.type == "cpu" and _some_ignored(scored := targets != IGNORE):
        return F.cross_entropy(F.linear(x[scored], weight, bias), targets[scored])
    return F.cross_entropy(F.linear(x, weight, bias).flatten(0, 1), targets.flatten())


def _some_ignored(scored: Tensor) -> bool:
    """Whether so few targets are scored that it pays to copy their rows."""
    try:
        return int(scored.sum()) < 0.9 * scored.numel()
    except RuntimeError:  # a tensor without data, as `pealm estimate` has them
        return False


class _FrozenHead(torch.autograd.Function):
    """The loss of rows x (N, C) with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        """Compute loss and gradient for some rows after the others."""
        scored = targets != IGNORE
        count = scored.sum().clamp(min=1)
        rows = scored.nonzero()[:, 0] if x.device.type == "cpu" else torch.arange(len(x), device=x.device)
        total: Any = 0.0
        gradient = torch.zeros_like(x)
        for some in torch.split(rows, ROWS):
            own, target = scored[some], targets[some].clamp(min=0)[:, None]
            logits = F.linear(x[some], weight, bias)  # (n, V)
            logits = logits.float() if logits.element_size() < 4 else logits
            normalizer = logits.logsumexp(-1, keepdim=True)
            total = total + ((normalizer - logits.gather(1, target))[:, 0] * own).sum()
            gradients = logits.sub_(normalizer).exp_()
            gradients.scatter_add_(1, target, gradients.new_full((), -1.0).expand_as(target))
            gradients *= (own / count)[:, None]
            gradient[some] = (gradients.to(weight.dtype) @ weight).to(x.dtype)
        ctx.save_for_backward(gradient)
        loss: Tensor = total / count
        return loss

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None, None, None]:
        """Scale the gradient."""
        (gradient,) = ctx.saved_tensors
        return gradient * given[0], None, None, None
