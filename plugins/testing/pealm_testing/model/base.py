"""What the checks of models share: making a model, random batches, calls with a check of what forward returns."""

from collections.abc import Mapping
from typing import Any, ClassVar
from unittest import SkipTest

import torch
from torch import Tensor

from pealm_core import ModelSpec
from pealm_testing.base import ComponentConformance
from pealm_testing.errors import ConformanceError


class ModelKit(ComponentConformance):
    """The attributes are described in `ModelConformance`."""

    kind = ModelSpec
    vocab_size: ClassVar[int] = 17
    start_loss: ClassVar[float] = 0.2
    context: ClassVar[int | None] = None
    fit_lr: ClassVar[float] = 1e-2
    fit_steps: ClassVar[int] = 300
    tolerance: ClassVar[float] = 1e-4

    def make(self, *, seed: int = 0, **changes: Any) -> Any:
        """Make the model with random weights, in eval mode."""
        if self.entry.spec.pretrained is not None:
            raise SkipTest("its weights are downloaded; check the model family instead")
        torch.manual_seed(seed)
        return self.entry.make(self.settings(vocab_size=self.vocab_size, **changes)).eval()

    def noisy(self) -> Any:
        """Make the model and add noise to every weight, because weights that start at zero would hide defects."""
        model = self.make()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        return model

    def batch(self, model: Any, rows: int = 4, tokens: int | None = None) -> tuple[Any, Any]:
        """Random idx and targets, both (rows, T); T is by default the block size, at most 32."""
        length = tokens or min(32, model.config.block_size)
        ids = torch.randint(self.vocab_size, (rows, length + 1), generator=torch.Generator().manual_seed(2))
        return ids[:, :-1], ids[:, 1:]


def call(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Call forward; return (logits, loss). Raises ConformanceError if forward has another signature or result."""
    try:
        result = model(*args, **kwargs)
    except TypeError as error:
        raise ConformanceError(
            f"{error}: the signature is forward(self, idx, targets=None, *, cache=None, at=None)"
        ) from error
    with_targets = len(args) > 1
    metrics = with_targets and isinstance(result, tuple) and len(result) == 3 and isinstance(result[2], Mapping)
    if not (isinstance(result, tuple) and (len(result) == 2 or metrics)):
        raise ConformanceError(
            f"forward must return (logits, loss), and (logits, None) without targets, not {_describe(result)}"
        )
    return result[:2]


def _describe(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"a tensor of shape {tuple(result.shape)}"
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else f"{result!r:.60}"


def shape(tensor: Any) -> Any:
    """The shape of a tensor; anything else as it is."""
    return tuple(tensor.shape) if isinstance(tensor, Tensor) else tensor


def trainable(model: Any) -> list[Tensor]:
    """The parameters that require a gradient."""
    return [p for p in model.parameters() if p.requires_grad]
