"""A strategy: parameters, gradients and optimizer state are sharded over the processes (PyTorch's FSDP2).

    torchrun --standalone --nproc-per-node 2 -m pealm --plugin examples/fsdp.py train char-transformer \
        --strategy fsdp --input.tinyshakespeare --steps 500 --out runs/fsdp

Checkpoints have full tensors, so that a run may resume with another number of processes, or with `--strategy ddp`.
"""

from contextlib import contextmanager

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm
from torch.utils._pytree import tree_map

from pealm_core import StrategySpec, hookimpl


def full(value):
    """A sharded tensor as a whole; all ranks take part."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def sharded(value, like):
    """A full tensor sharded as a parameter is."""
    same = isinstance(like, DTensor) and getattr(value, "shape", None) == like.shape
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements) if same else value


class FullyShard:
    collective = True  # a forward pass needs all ranks: they all validate and generate samples

    def wrap(self, model):
        if dist.is_initialized():
            mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
            for module in model.modules():
                if isinstance(module, nn.ModuleList):  # the blocks, of which each gathers its weights when it runs
                    for block in module:
                        fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh)  # in place: the model stays the same object
        return model

    @contextmanager
    def no_sync(self, module):
        sharded_model = isinstance(module, FSDPModule)  # one process has nothing to shard
        if sharded_model:
            module.set_requires_gradient_sync(False)
        yield
        if sharded_model:
            module.set_requires_gradient_sync(True)

    def grad_norm(self, parameters):
        return full(get_total_norm([p.grad for p in parameters if p.grad is not None]))

    def full_state(self, model, optimizer):
        return tree_map(full, (dict(model.state_dict()), optimizer.state_dict()))

    def load_state(self, model, optimizer, weights, state):
        own = model.state_dict()
        model.load_state_dict({name: sharded(value, own[name]) for name, value in weights.items()}, strict=False)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        moments = {
            number: {name: sharded(value, parameters[int(number)]) for name, value in values.items()}
            for number, values in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": moments})


@hookimpl
def pealm_strategies():
    yield StrategySpec(name="fsdp", summary="Shard the model over the processes", factory=FullyShard)
