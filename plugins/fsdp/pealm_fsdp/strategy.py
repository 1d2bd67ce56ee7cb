"""The strategy: each process keeps a part of every parameter and gathers a block's weights while it computes."""

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from pealm_fsdp import shards
from pealm_fsdp.config import FSDPConfig
from pealm_fsdp.deferred import Deferred, named_tensors


class FullyShard:
    """FSDP2. Any number of processes may resume the run, and another strategy if checkpoints have full tensors."""

    collective = True  # a forward pass needs all processes: they all validate and generate samples

    def __init__(self, config: FSDPConfig) -> None:
        self.config = config
        self.sharded = config.checkpoints == "sharded"
        self._deferred: Deferred | None = None

    def build(self, make: Callable[[], nn.Module]) -> nn.Module:
        """Make a model that has `init_weights()`: without memory, if there are several processes."""
        if not several():
            return make()
        self._deferred = Deferred(make)
        return self._deferred.model

    def wrap(self, model: nn.Module) -> nn.Module:
        """Shard the model in place, if there are several processes: each of its blocks, then what remains."""
        parts = blocks(model)
        if self.config.activation_checkpointing:
            for block in parts:
                recompute(block)
        if not several():
            return model
        # torch's own calls
        warnings.filterwarnings("ignore", ".*all_gather_into_tensor. is deprecated", FutureWarning)
        bf16 = self.config.weights == "bf16"
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
        device = next(model.parameters()).device
        if device.type == "meta":
            device = torch.device("cuda" if "nccl" in dist.get_backend_config() else "cpu")
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for module in (*parts, model):
            fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=self.config.reshard)
        if self._deferred is not None and self._deferred.model is model:
            model.to_empty(device=device)
            own = dict(named_tensors(model))
            with torch.no_grad():
                self._deferred.fill(lambda name, tensor: own[name].copy_(sharded(tensor, own[name])))
            self._deferred = None
        return model

    @contextmanager
    def no_sync(self, module: nn.Module) -> Iterator[None]:
        """Leave the gradients of a backward pass on this process."""
        if not isinstance(module, FSDPModule):  # one process has nothing to shard
            yield
            return
        module.set_requires_gradient_sync(False)
        yield
        module.set_requires_gradient_sync(True)

    def grad_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Return the norm of all gradients."""
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def full_state(self, model: nn.Module, optimizer: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the full state dicts on rank 0, in host memory; on the others empty ones.

        One tensor at a time is gathered, so that no GPU needs room for the whole model.
        """
        first: dict[int, str] = {}  # tied parameters have several names, and are gathered once
        names = {n: first.setdefault(id(p), n) for n, p in model.named_parameters(remove_duplicate=False)}
        weights: dict[str, Any] = {}
        for name, value in model.state_dict().items():
            weights[name] = weights[tied] if (tied := names.get(name, name)) in weights else gathered(value)
        state = optimizer.state_dict()
        state["state"] = {
            number: {key: gathered(value) for key, value in values.items()}
            for number, values in state["state"].items()
        }
        return (weights, state) if not several() or dist.get_rank() == 0 else ({}, {})

    def save_shards(self, folder: Path, model: nn.Module, optimizer: Any, names: Collection[str]) -> None:
        """Write what this process has of the tensors `names` of the model and of the optimizer's state."""
        shards.save(folder, model, optimizer, names)

    def load_shards(self, folder: Path, model: nn.Module, optimizer: Any) -> None:
        """Read this process's part of what any number of processes wrote."""
        shards.load(folder, model, optimizer)

    def load_state(self, model: nn.Module, optimizer: Any, weights: Mapping[str, Any], state: Any) -> None:
        """Load full state dicts, of which each process takes its part."""
        own = model.state_dict()
        model.load_state_dict({name: sharded(value, own[name]) for name, value in weights.items()}, strict=False)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        moments = {
            number: {key: sharded(value, parameters[int(number)]) for key, value in values.items()}
            for number, values in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": moments})


def several() -> bool:
    """Return whether there are several processes."""
    return dist.is_initialized() and dist.get_world_size() > 1


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the modules of the outermost `nn.ModuleList`s with parameters: the layers of a transformer.

    Lists inside of a block, such as experts, are not sharded by themselves: processes that use different ones would
    wait for each other.
    """
    if isinstance(model, nn.ModuleList):
        return [block for block in model if next(block.parameters(), None) is not None]
    return [block for child in model.children() for block in blocks(child)]


def recompute(block: nn.Module) -> None:
    """Compute a block's activations again in the backward pass, instead of keeping them. In place, for training."""
    forward = block.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        again = entered(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]
        call = partial(forward, **kwargs)
        return checkpoint(call, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), again))

    block.forward = run


@contextmanager
def entered(modes: Iterable[Any]) -> Iterator[None]:
    """Enter torch's function modes of a forward pass, such as pealm's attention for AMD CPUs. Backward has none."""
    with ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        yield


def gathered(value: Any) -> Any:
    """Return a sharded tensor as a full one in rank 0's host memory; every process calls this."""
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor()
    return full.cpu() if dist.get_rank() == 0 else None


def sharded(value: Any, like: Tensor) -> Any:
    """Return this process's part of a full tensor, divided as a parameter is; other values as they are."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
