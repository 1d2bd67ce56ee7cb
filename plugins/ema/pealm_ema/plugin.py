"""An exponential moving average of the weights, which is validated, sampled from and kept in best/."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pealm_core import ObserverSpec, UserError, hookimpl

if TYPE_CHECKING:
    from torch import nn

    from pealm_core import Trainer

averages: "WeakKeyDictionary[Trainer, Any]" = WeakKeyDictionary()  # the averaged model of a run


@hookimpl
def pealm_observers() -> Iterator[ObserverSpec]:
    """Register the settings `--observer.ema.decay`."""
    yield ObserverSpec(
        name="ema",
        summary="A moving average of the weights, for validation and best/",
        config="pealm_ema.config:EMAConfig",
    )


@hookimpl
def pealm_run_start(trainer: "Trainer") -> None:
    """Start the average, or load it from the checkpoint from which the run resumes."""
    decay = trainer.options("ema").decay
    if decay is None:
        return
    if any(hasattr(parameter, "full_tensor") for parameter in trainer.model.parameters()):  # a DTensor
        raise UserError("--observer.ema.decay needs all weights in each process; use --strategy ddp")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    averages[trainer] = AveragedModel(trainer.model, multi_avg_fn=update)
    trainer.register_state("ema", averages[trainer])


@hookimpl
def pealm_step_end(trainer: "Trainer") -> None:
    """Add the weights to the average, on every rank: all have the same ones."""
    if trainer in averages:
        averages[trainer].update_parameters(trainer.model)


@hookimpl
def pealm_eval_model(trainer: "Trainer") -> "nn.Module | None":
    """Return the averaged model, which has the same state dict as the model."""
    return averages[trainer].module if trainer in averages else None
