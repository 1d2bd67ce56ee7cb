"""Muon (Jordan et al. 2024): the step of a matrix is its momentum, orthogonalised.

A gradient matrix is mostly a few large singular directions. Muon replaces it by the nearest (semi-)orthogonal matrix,
so that every direction that the matrix can move in moves by the same amount. Embeddings, the head, norms and biases
are no such matrices: AdamW takes them.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pealm_core import fast_bf16
from pealm_muon.config import MuonConfig

# The quintic x -> a x + b x^3 + c x^5, five times, takes every singular value in (0, 1] to within about 0.7 to 1.2;
# the coefficients (Jordan et al.) trade exactness at 1 for speed at 0.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def build(config: MuonConfig, model: nn.Module, *, lr: float) -> "Muon":
    """Muon over the model's parameters. lr: the peak rate of matrices; that of the rest is config.adam_lr."""
    chosen = matrices(model)
    ids = {id(p) for p in chosen}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    return Muon(
        chosen,
        [p for p in rest if p.dim() >= 2],
        [p for p in rest if p.dim() < 2],
        config,
        lr=lr,
    )


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that Muon takes: what the model's own `muon_parameters()` gives, where it has one.

    Else the weights of its linear layers, but for the last one where it gives the logits, and those that are
    embeddings as well.
    Of a parameter with three dimensions, each slice along the first one is a matrix.
    """
    own = getattr(model, "muon_parameters", None)
    if own is not None:
        return [p for p in own() if p.requires_grad]
    vocab_size = getattr(getattr(model, "config", None), "vocab_size", None)
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    heads = [m for m in linear[-1:] if m.out_features == vocab_size]  # an earlier one is as wide by chance
    return [
        p
        for m in linear
        for name, p in m.named_parameters()
        if name == "weight" and p.requires_grad and id(p) not in tables and m not in heads
    ]


class Muon(torch.optim.AdamW):
    """Muon for the first group, AdamW for the other two (of which only the tables decay)."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        tables: Iterable[nn.Parameter],
        vectors: Iterable[nn.Parameter],
        config: MuonConfig,
        *,
        lr: float,
    ) -> None:
        adam: dict[str, Any] = {"lr": config.adam_lr, "betas": (config.beta1, config.beta2)}
        groups = [
            {"params": list(matrices), "muon": True, "lr": lr, "weight_decay": config.weight_decay},
            {"params": list(tables), "muon": False, "weight_decay": config.adam_decay, **adam},
            {"params": list(vectors), "muon": False, "weight_decay": 0.0, **adam},
        ]
        if not groups[0]["params"]:
            raise ValueError("this model has no matrices for Muon; use --optimizer adamw")
        self.momentum, self.cautious = config.momentum, config.cautious
        groups = [group for group in groups if group["params"]]
        fused = all(p.device.type in ("cpu", "cuda", "mps") for group in groups for p in group["params"])
        super().__init__(groups, fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        muon = [group for group in self.param_groups if group["muon"]]
        held = [(p, p.grad) for group in muon for p in group["params"]]
        for group in muon:
            self._step_matrices(group)
        for p, _ in held:
            p.grad = None  # AdamW leaves alone what has no gradient
        super().step()
        for p, gradient in held:
            p.grad = gradient
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        buffers = []
        for p in parameters:
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p)
                state["step"] = torch.zeros(())  # which AdamW looks for in whatever it loads
            buffers.append(state["momentum"])
        torch._foreach_lerp_(buffers, gradients, 1 - self.momentum)
        directions = torch._foreach_lerp(gradients, buffers, self.momentum)  # Nesterov: one step ahead
        updates = _orthogonalized(list(directions))
        if decay := group["lr"] * group["weight_decay"]:
            if self.cautious:  # (Chen et al. 2025)
                shrinks = torch._foreach_mul(updates, parameters)  # above 0 where the step shrinks the weight
                torch._foreach_sign_(shrinks)
                torch._foreach_clamp_min_(shrinks, 0.0)
                torch._foreach_addcmul_(parameters, parameters, shrinks, value=-decay)
            else:
                torch._foreach_mul_(parameters, 1 - decay)
        # A step of lr times an orthogonal matrix moves a unit input by lr; a tall matrix has more outputs to move
        # (Jordan et al.).
        rates = [group["lr"] * max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5 for p in parameters]
        torch._foreach_mul_(updates, rates)
        torch._foreach_sub_(parameters, updates)


def _orthogonalized(tensors: list[Tensor]) -> list[Tensor]:
    """Each tensor orthogonalised. Those that are sharded over the processes are gathered for it."""
    if not dist.is_initialized():
        return orthogonalize_all(tensors)
    from torch.distributed.tensor import DTensor, distribute_tensor  # takes half a second

    results = orthogonalize_all([t.full_tensor() if isinstance(t, DTensor) else t for t in tensors])
    return [
        distribute_tensor(result, t.device_mesh, t.placements, src_data_rank=None)
        if isinstance(t, DTensor)
        else result
        for result, t in zip(results, tensors, strict=True)
    ]


def orthogonalize_all(tensors: list[Tensor]) -> list[Tensor]:
    """Each tensor orthogonalised: matrices of one shape in one product of a batch.

    Where several processes train together, each takes its share of every batch and all get all of them.
    """
    batches: dict[tuple[int, ...], list[int]] = {}
    for i, tensor in enumerate(tensors):
        batches.setdefault(tuple(tensor.shape[-2:]), []).append(i)
    done = list(tensors)
    for members in batches.values():
        parts = [tensors[i].reshape(-1, *tensors[i].shape[-2:]) for i in members]
        results = torch.split(_shared(torch.cat(parts)), [len(part) for part in parts])
        for i, result in zip(members, results, strict=True):
            done[i] = result.view(tensors[i].shape)
    return done


def _shared(batch: Tensor) -> Tensor:
    """`orthogonalize`, the work cut among the processes; bit for bit the same result on all of them."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return orthogonalize(batch)
    world, rank = dist.get_world_size(), dist.get_rank()
    share = -(-len(batch) // world)
    mine = batch[rank * share : (rank + 1) * share]
    result = batch.new_zeros(share, *batch.shape[1:])
    if len(mine):
        result[: len(mine)] = orthogonalize(mine)
    gathered = batch.new_empty(world * share, *batch.shape[1:])
    gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # its name from torch 2.13 on
    gather(gathered, result)
    return gathered[: len(batch)]


def orthogonalize(batch: Tensor) -> Tensor:
    """About the nearest semi-orthogonal matrix of each in (N, rows, columns): U V' of U S V'.

    By Newton-Schulz iteration, which takes nothing but products: in bf16 where the device multiplies that fast, else
    in fp32.
    """
    x = batch.float()
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)  # no singular value above 1
    x = x.to(torch.bfloat16 if fast_bf16(x.device) else torch.float32)
    (a, b, c), tall = COEFFICIENTS, x.shape[1] > x.shape[2]
    for _ in range(ITERATIONS):
        square = x.mT @ x if tall else x @ x.mT  # the smaller of both
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, x, polynomial, beta=a) if tall else torch.baddbmm(x, polynomial, x, beta=a)
    return x.to(batch.dtype)
