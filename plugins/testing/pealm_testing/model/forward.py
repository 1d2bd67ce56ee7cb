"""Checks of one forward pass: shapes, loss, causality, independence of rows, precision."""

import math
from unittest import SkipTest

import torch
import torch.nn.functional as F
from torch import Tensor

from pealm_core import PealmError
from pealm_testing.core import autocast, trace
from pealm_testing.dummies import Bytes
from pealm_testing.errors import ConformanceError
from pealm_testing.model.base import ModelKit, call, shape


class ForwardChecks(ModelKit):
    """Checks of one forward pass."""

    def test_it_does_not_set_the_seed(self) -> None:
        """Catches a model that seeds torch: --seed would have no effect."""
        states = []
        for seed in (0, 1):
            self.make(seed=seed)
            states.append(torch.get_rng_state())
        if torch.equal(*states):
            raise ConformanceError("the model sets torch's seed: leave that to the trainer's --seed")

    def test_shapes(self) -> None:
        """Catches logits that are not vocab_size wide, and an `at` that picks the wrong positions."""
        model = self.noisy()
        idx, targets = self.batch(model)
        logits, _ = call(model, idx)
        rows, length = idx.shape
        if shape(logits) != (rows, length, self.vocab_size):
            raise ConformanceError(
                f"forward(idx) must return logits of shape (B, T, vocab_size) = {(rows, length, self.vocab_size)}, "
                f"not {shape(logits)}"
            )
        for at in ([-1], [0, length - 1], slice(1, None), torch.tensor([length // 2])):
            some, _ = call(model, idx, at=at)
            expected = logits[:, at]
            if shape(some) != shape(expected) or not torch.allclose(some, expected, atol=self.tolerance):
                raise ConformanceError(
                    f"forward(idx, at={at}) must return the logits of these positions only, {shape(expected)}, but "
                    f"returns {shape(some)}: index dimension 1 with it, x = x[:, at], before the head"
                )
        _, loss = call(model, idx, targets)
        if shape(loss) != ():
            raise ConformanceError(
                f"forward(idx, targets) must return (logits or None, a scalar loss), not {loss!r:.50}"
            )

    def test_loss_is_the_mean_cross_entropy(self) -> None:
        """Catches targets that the model shifts again, a sum instead of a mean, a loss in bits."""
        model = self.noisy()
        idx, _ = self.batch(model)
        logits = call(model, idx)[0]
        targets = logits.argmax(-1)  # far from chance, so that a shift is visible
        loss = call(model, idx, targets)[1]
        expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        if not abs(loss.item() - expected.item()) <= 1e-4:
            raise ConformanceError(
                f"the loss is {loss.item():.4f}, but the mean cross-entropy of the logits is {expected.item():.4f}: "
                f"targets[b, t] is already the token after idx[b, t]; return F.cross_entropy(logits.flatten(0, 1), "
                f"targets.flatten())"
            )

    def test_initial_loss_is_near_uniform(self) -> None:
        """Catches initial weights that are too large: the first steps would only undo them."""
        model = self.make()
        _, loss = call(model, *self.batch(model, rows=8))
        if not abs(loss.item() - math.log(self.vocab_size)) <= self.start_loss:
            raise ConformanceError(
                f"the initial loss is {loss.item():.3f}; uniform predictions have ln(vocab_size) = "
                f"{math.log(self.vocab_size):.3f}: initialize the head with smaller weights (std 0.02), or set "
                f"start_loss"
            )

    def test_it_is_causal(self) -> None:
        """Catches a missing or shifted causal mask: training would look too good, and generated text be noise."""
        model = self.noisy()
        idx, _ = self.batch(model)
        t = idx.shape[1] // 2
        other = idx.clone()
        other[:, t] = (other[:, t] + 1) % self.vocab_size
        with torch.no_grad():
            change = (call(model, idx)[0] - call(model, other)[0]).abs().amax(dim=(0, 2))
        early = change[:t]
        if early.numel() and not float(early.max()) <= self.tolerance:
            raise ConformanceError(
                f"changing token {t} changes the logits at the earlier position {int(early.argmax())}: mask later "
                f"tokens (pealm_core.causal_attention does), and normalize over features, not over positions"
            )
        if not float(change[t]) > 0:
            raise ConformanceError(f"changing token {t} does not change the logits at position {t}: idx is not used")

    def test_trace_shows_what_the_model_does(self) -> None:
        """Catches `layers` that miss a block or have another order, and an `unembed` that is not the model's head."""
        model = self.noisy()
        if getattr(model, "layers", None) is None or getattr(model, "unembed", None) is None:
            raise SkipTest("it has no layers and unembed; LM.trace shows its predictions only")
        try:
            seen = trace(model, self.batch(model)[0][0].tolist(), Bytes())
            last = seen.layer_logits(-1)
        except (PealmError, AttributeError, IndexError, RuntimeError) as error:
            raise ConformanceError(
                f"LM.trace fails: {error}. layers: the blocks, each called once with hidden states (B, T, C),"
                f" returned alone or first; unembed(x) gives their logits (B, T, V)"
            ) from error
        if not torch.allclose(last, seen.logits, atol=self.tolerance):
            raise ConformanceError(
                "unembed of the last layer's output differs from the logits: layers must end with the last block, and"
                " unembed must have all that follows it, the last norm included"
            )

    def test_rows_are_independent(self) -> None:
        """Catches statistics over the batch: results would depend on how a batch is divided."""
        model = self.noisy()
        idx, targets = self.batch(model)
        if not torch.allclose(call(model, idx[:1])[0], call(model, idx)[0][:1], atol=self.tolerance):
            raise ConformanceError(
                "the logits of a row depend on the other rows: normalize over features (LayerNorm), not the batch"
            )
        halves = [_gradients(model, idx[i : i + 2], targets[i : i + 2]) for i in (0, 2)]
        for name, gradient in _gradients(model, idx, targets).items():
            if not torch.allclose((halves[0][name] + halves[1][name]) / 2, gradient, atol=1e-4, rtol=1e-3):
                raise ConformanceError(
                    f"the gradient of {name} over a batch is not the mean of the gradients over its halves, so two "
                    f"processes would train differently from one: return the mean loss over all tokens"
                )

    def test_bf16_is_close_to_fp32(self) -> None:
        """Catches tensors forced to fp32 or fp16 inside the model, and sums that are inaccurate in bf16."""
        model = self.noisy()
        idx, _ = self.batch(model)
        exact = call(model, idx)[0].detach()
        with autocast(torch.device("cpu"), torch.bfloat16):
            try:
                logits = call(model, idx)[0].detach().float()
            except RuntimeError as error:
                raise ConformanceError(
                    f"with --dtype bf16 it fails: {error}. Autocast makes some tensors bf16: convert with "
                    f".type_as(x) instead of to a fixed dtype"
                ) from error
        off = float((logits - exact).square().mean().sqrt() / (exact.std() + 1e-3))
        if not off <= 0.1:
            raise ConformanceError(
                f"with --dtype bf16 the logits differ by {off:.0%} of their standard deviation: compute sums, norms "
                f"and softmax in fp32 (x.float())"
            )


def _gradients(model: torch.nn.Module, idx: Tensor, targets: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    call(model, idx, targets)[1].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
