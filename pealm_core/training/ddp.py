"""How a model is spread over the processes of a run: data parallel, a copy of the model in each."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from pealm_core.config.settings import DataParallelConfig


class DataParallel:
    """A copy of the model in each process; the last backward pass of a step averages the gradients over them."""

    collective = False

    def __init__(self, config: DataParallelConfig = DataParallelConfig()) -> None:  # noqa: B008  it is frozen
        self.config = config
        self._trained: tuple[str, ...] = ()  # with several processes: the parameters whose gradients are averaged
        self.unused: set[str] = set()  # those of them without a gradient from the last pass

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wrap the model, where there are several processes. Buffers are constants and are not sent.

        Gradients are views of the buckets in which they are sent, which saves a copy. A static graph is not declared:
        it was not faster, and torch refuses it with gradient accumulation.
        """
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not dist.is_initialized() or dist.get_world_size() == 1 or not trained:
            return model
        names = inspect.signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"  # until torch 2.12
        options: dict[str, Any] = {sync: False, "gradient_as_bucket_view": True}
        self._trained, self.unused = tuple(trained), set(trained)
        parameter: Any  # torch's method has no types
        for name, parameter in trained.items():
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: self.unused.discard(name))
        module = DistributedDataParallel(model, **options)
        if self.config.gradients == "bf16":
            # torch's check knows its own function, and refuses it on CPUs, where gloo can do it.
            module.register_comm_hook(None, lambda state, bucket: bf16_compress_hook(state, bucket))
        return module

    @contextmanager
    def no_sync(self, module: nn.Module) -> Iterator[None]:
        """Leave the gradients of a backward pass on this process."""
        with module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext():
            yield
        self.unused.update(self._trained)

    def grad_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Return the norm of all gradients."""
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def full_state(self, model: nn.Module, optimizer: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the state dicts, which each process has whole."""
        return model.state_dict(), optimizer.state_dict()

    def load_state(self, model: nn.Module, optimizer: Any, weights: Mapping[str, Any], state: Any) -> None:
        """Load the state dicts."""
        model.load_state_dict(weights, strict=False)  # of an adapted model, they are a part; the names are checked
        optimizer.load_state_dict(state)


def gradient_problem(model: torch.nn.Module, strategy: Any, *, several: bool) -> str:
    """Return what is wrong with the gradients after a step's backward passes, "" if nothing is.

    several: there are other processes, for which DistributedDataParallel needs every gradient at every step.
    strategy: its `unused`, if it has that, names the parameters without a gradient from the last pass.
    """
    parameters = dict(model.named_parameters())
    if sparse := [name for name, p in parameters.items() if p.grad is not None and p.grad.is_sparse]:
        return f"the model gives {sparse[0]} a sparse gradient, which can't be clipped; use a dense one"
    unused = getattr(strategy, "unused", ())
    missing = [n for n, p in parameters.items() if n in unused or (p.requires_grad and p.grad is None)]
    if not several or not missing:
        return ""
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    return (
        f"the model gives {', '.join(missing[:5])}{more} no gradient, which several processes need in every pass: "
        f"use it in forward, remove it, or set requires_grad=False when the model is made"
    )
