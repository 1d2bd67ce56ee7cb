"""An exponential moving average of the weights, which is validated, sampled from and kept in best/.

Loading the file turns it on, for any model:

    pealm --plugin examples/ema.py train char-transformer --input.tinyshakespeare --steps 500 --out runs/ema
    pealm --plugin examples/ema.py train --out runs/ema --steps 1000 --observer.ema.decay 0.995

The second line resumes the run. `pealm sample --ckpt runs/ema` needs no plugin: best/ has plain weights.
"""

from dataclasses import dataclass

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pealm_core import ObserverSpec, hookimpl, setting


@dataclass(frozen=True)
class Config:
    decay: float = setting(0.99, "the average is over about 1 / (1 - decay) steps", at_least=0, below=1)


averages = {}  # trainer → its averaged model


@hookimpl
def pealm_observers():
    yield ObserverSpec(name="ema", summary="An average of the weights", config=Config)


@hookimpl
def pealm_run_start(trainer):
    decay = trainer.options("ema").decay
    averages.clear()  # of an earlier run in this process
    averages[trainer] = AveragedModel(trainer.model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    # Saved with every checkpoint. If the run has resumed, this loads what was saved.
    trainer.register_state("ema", averages[trainer])


@hookimpl
def pealm_step_end(trainer):
    averages[trainer].update_parameters(trainer.model)  # on every rank, which all have the same weights


@hookimpl
def pealm_eval_model(trainer):
    return averages[trainer].module  # it has the same state dict as the model
