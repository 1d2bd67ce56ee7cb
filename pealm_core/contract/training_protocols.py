"""What takes part in training besides the model; docs/contract.md is the reference."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

IGNORE = -100  # as a target: this position is not scored

Batch = Mapping[str, "Tensor"]


class Source(Protocol):
    """Samples to train on or to validate with: rows of `block_size` tokens, by number.

    tokens: the number of tokens in it. len(): the number of samples in one pass over it. name: what `--input.NAME`
    calls it, used where there are several.
    """

    tokens: int
    block_size: int

    def __len__(self) -> int: ...

    def rows(self, samples: Iterable[int]) -> Batch:
        """Return the samples with these numbers: `idx` and `targets`, (n, T) int64 each, and what else a model needs.

        A pure function of the numbers (from 0 to any size in training) and the seed.
        """


class Schedule(Protocol):
    """A learning-rate schedule. The trainer multiplies its factor by the linear warm-up (`--warmup-steps`)."""

    def __call__(self, progress: float, step: int) -> float:
        """Return the learning rate as a fraction of its peak: progress 0 to 1, step 0 when the warm-up ends."""


class Objective(Protocol):
    """What training minimizes.

    Optional: `prepare(batch, seed) -> batch`, `weight(batch) -> int` and `validate(model, batch) -> Tensor`.
    """

    def loss(self, model: Any, batch: Batch) -> "tuple[Tensor, Mapping[str, Tensor]]":
        """Call `model` once; return the mean loss over the scored targets, a scalar, and metrics: scalars by name."""


class Strategy(Protocol):
    """How a model is spread over processes. collective: a forward pass needs all of them."""

    collective: bool

    def wrap(self, model: "nn.Module") -> "nn.Module":
        """Return the module to train. The optimizer is made afterwards, from the parameters of `model`."""

    def no_sync(self, module: "nn.Module") -> AbstractContextManager[Any]:
        """Return a context without averaging of gradients, for all backward passes of a step but the last."""

    def grad_norm(self, parameters: "Iterable[nn.Parameter]") -> "Tensor":
        """Return the norm of all gradients, the same on all ranks: a scalar that stays on the device."""

    def full_state(self, model: "nn.Module", optimizer: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the full state dicts of the model and the optimizer, on rank 0; called on every rank."""

    def load_state(self, model: "nn.Module", optimizer: Any, weights: Mapping[str, Any], state: Any) -> None:
        """Load full state dicts; called on every rank. Raises ValueError if the optimizer's doesn't fit."""


class Adapter(Protocol):
    """A change of a model with the weights of `--init`, for instance LoRA. Checkpoints have only what is trained."""

    def apply(self, model: "nn.Module") -> None:
        """Change the model in place, and freeze what is not to be trained, without changing its numbers."""

    def merge(self, model: "nn.Module") -> None:
        """Undo the change in place, with what was learned added to the model's own weights."""


class Run(Protocol):
    """A training run on disk: its folder, its config as in config.toml, the rank of this process."""

    dir: Path
    config: Mapping[str, Any]
    rank: int


class Trainer(Protocol):
    """The training loop, as hooks get it: `step` steps are done, `model` is the module without a wrapper."""

    run: Run
    model: "nn.Module"
    optimizer: Any
    tokenizer: Any
    world: Any
    settings: Any
    step: int

    def options(self, name: str) -> Any:
        """Return the settings of the observer `name`: an instance of the config of its ObserverSpec."""

    def register_state(self, name: str, obj: Any) -> None:
        """Save `obj.state_dict()` with each checkpoint, load it when a run resumes; the plugin is then needed."""

    def evaluating(self) -> AbstractContextManager["nn.Module"]:
        """Return a context that gives the module to evaluate: that of `pealm_eval_model`, if a plugin has one."""

    def stop(self, reason: str) -> None:
        """End the run after the current step, with a validation and a checkpoint, and print the reason."""
