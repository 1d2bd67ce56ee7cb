"""The loss of a model's head, without keeping its logits: on a CPU, and where the head is not trained."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # as a target: this position is not scored
ROWS = 512  # of logits at a time
CACHED = 2**21  # logits that fit into a CPU's cache


def head_loss(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of a head's logits. x: (B, T, C), weight: (V, C), bias: (V), targets: (B, T).

    On a CPU, targets that are IGNORE take no time. There, and on other devices if the head is not trained, as below
    an adapter, and the bias is not, the gradients are computed beside the loss, some rows at a time, which takes less
    memory. As with `F.cross_entropy`, the loss of no scored target is NaN, and its gradients are 0.
    """
    x, targets, cpu = x.flatten(0, 1), targets.flatten(), x.device.type == "cpu"
    if cpu and _some_ignored(scored := targets != IGNORE):
        x, targets = x[scored], targets[scored]
    fixed = bias is None or not bias.requires_grad
    if torch.is_grad_enabled() and x.requires_grad and fixed and (cpu or not weight.requires_grad):
        loss: Tensor = _Head.apply(x, weight, bias, targets)  # type: ignore[no-untyped-call]
        return loss
    return F.cross_entropy(F.linear(x, weight, bias), targets)


def _some_ignored(scored: Tensor) -> bool:
    """Whether so few targets are scored that it pays to copy their rows."""
    try:
        return int(scored.sum()) < 0.9 * scored.numel()
    except RuntimeError:  # a tensor without data, as `pealm estimate` has them
        return False


class _Head(torch.autograd.Function):
    """The loss of rows x (N, C), with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        """Compute loss and gradients for some rows after the others."""
        scored, device = targets != IGNORE, x.device.type
        dtype = F.linear(x[:1], weight[:1]).dtype  # autocast's, where it is enabled
        size = max(1, CACHED // len(weight)) if device == "cpu" else ROWS
        count, total, gradient, of_head = scored.sum(), x.new_zeros(()), torch.empty_like(x), None
        head = weight.to(dtype)
        buffer = head.new_empty(min(ROWS, len(x)), len(head))  # new memory for each product would take longer
        for start in range(0, len(x), ROWS):
            rows = slice(start, start + ROWS)
            some, own = x[rows].to(dtype), scored[rows, None]
            logits = torch.mm(some, head.T, out=buffer[: len(some)])  # (n, V)
            target = targets[rows, None].clamp(min=0)
            parts = zip(*(torch.split(each, size) for each in (logits, target, own)), strict=True)
            total = total + sum(_losses(part, bias, *wanted) for part, *wanted in parts)
            gradient[rows] = (logits @ head) * own
            if weight.requires_grad:
                product = (logits.T @ (some * own)).to(weight.dtype)
                of_head = product if of_head is None else of_head.add_(product)
        if weight.requires_grad and of_head is None:  # there are no rows
            of_head = torch.zeros_like(weight)
        ctx.save_for_backward(count.clamp(min=1))
        ctx.gradients = gradient, of_head
        loss: Tensor = total / count
        return loss

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        """Scale the gradients, in place: there is no second time."""
        (gradient, of_head), ctx.gradients = ctx.gradients, (None, None)
        if gradient is None:
            raise RuntimeError("the gradients of head_loss can't be computed a second time; call it again")
        scale = given[0] / ctx.saved_tensors[0]
        return gradient.mul_(scale), None if of_head is None else of_head.mul_(scale), None, None


def _losses(logits: Tensor, bias: Tensor | None, target: Tensor, own: Tensor) -> Tensor:
    """Return the sum of the losses of rows of logits (n, V), which become its gradient. own: (n, 1), what counts."""
    wide = logits.float() if logits.element_size() < 4 else logits
    if bias is not None:
        wide += bias
    log_probabilities = wide.log_softmax(-1)
    gradient = torch.exp(log_probabilities, out=wide)
    gradient.scatter_add_(1, target, gradient.new_full((), -1.0).expand_as(target))
    logits.copy_(gradient)
    return -(log_probabilities.gather(1, target) * own).sum()
