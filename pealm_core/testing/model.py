"""What a model must do."""

import copy
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

import torch
import torch.nn.functional as F
from torch import Tensor

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.build import make
from pealm_core.config.settings import Sampling
from pealm_core.contract.errors import PealmError
from pealm_core.contract.fields import dump
from pealm_core.contract.protocols import has
from pealm_core.contract.specs import ModelSpec
from pealm_core.hardware.device import autocast
from pealm_core.inference.generate import generate_ids
from pealm_core.testing.base import Conformance
from pealm_core.testing.dummies import Bytes
from pealm_core.testing.ranks import learn, on_ranks
from pealm_core.testing.watch import watched


class ModelConformance(Conformance):
    """A model, small, on the CPU.

    config: sizes that make a step take milliseconds. vocab_size: of the tokens that it is tried on.
    start_loss: how far the first loss may be from ln(vocab_size).
    context: how many tokens it can see, 1 for a bigram; None: all of its window. fit_lr, fit_steps: how it learns one
    batch by heart. slow: also torch.compile, and a real second process (ten seconds each).
    """

    kind = ModelSpec
    vocab_size: ClassVar[int] = 17
    start_loss: ClassVar[float] = 0.2
    context: ClassVar[int | None] = None
    fit_lr: ClassVar[float] = 1e-2
    fit_steps: ClassVar[int] = 300
    tolerance: ClassVar[float] = 1e-4  # between two ways to compute the same logits in fp32
    slow: ClassVar[bool] = False

    def make(self, *, seed: int = 0, **more: Any) -> Any:
        """The model with weights of a seed, in eval mode."""
        if self.entry.spec.pretrained is not None:
            raise SkipTest("its weights come from elsewhere; the checks are for its family")
        torch.manual_seed(seed)
        return make(self.entry, self.settings(vocab_size=self.vocab_size, **more)).eval()

    def shaken(self) -> Any:
        """The model with noise on every weight: one that starts at zero would hide what the model does."""
        model = self.make()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        return model

    def batch(self, model: Any, rows: int = 4, tokens: int | None = None) -> tuple[Any, Any]:
        """Random ids and what follows each: (rows, T) both, T the block size, or 32 where that is less."""
        length = tokens or min(32, model.config.block_size)
        ids = torch.randint(self.vocab_size, (rows, length + 1), generator=torch.Generator().manual_seed(2))
        return ids[:, :-1], ids[:, 1:]

    def test_making_it_is_quiet(self) -> None:
        """Catches a model that prints, downloads, seeds or sets torch's defaults when it is made."""
        with watched(draws=True) as seen:
            self.make()
        assert not seen, f"making the model {' and '.join(seen)}: a model only makes its layers"
        states = []
        for seed in (0, 1):
            self.make(seed=seed)
            states.append(torch.get_rng_state())
        assert not torch.equal(*states), "the model sets torch's seed: leave that to the trainer's --seed"

    def test_shapes(self) -> None:
        """Catches logits of another width than vocab_size, and an `at` that picks the wrong positions."""
        model = self.shaken()
        idx, targets = self.batch(model)
        whole, _ = _call(model, idx)
        rows, length = idx.shape
        assert _shape(whole) == (rows, length, self.vocab_size), (
            f"forward(idx) must give logits of shape (B, T, vocab_size) = {(rows, length, self.vocab_size)}, "
            f"not {_shape(whole)}"
        )
        for at in ([-1], [0, length - 1], slice(1, None), torch.tensor([length // 2])):
            some, _ = _call(model, idx, at=at)
            expected = whole[:, at]
            assert _shape(some) == _shape(expected) and torch.allclose(some, expected, atol=self.tolerance), (
                f"forward(idx, at={at}) must give the logits of just these positions, {_shape(expected)}, and gives "
                f"{_shape(some)}: index dimension 1 with it, x = x[:, at], before the head"
            )
        _, loss = _call(model, idx, targets)
        assert _shape(loss) == (), (
            f"forward(idx, targets) must give (logits or None, a scalar loss), not {loss!r:.50}"
        )

    def test_the_loss_is_the_mean_cross_entropy_of_its_logits(self) -> None:
        """Catches targets that are shifted once more in the model, a sum for a mean, a loss in bits."""
        model = self.shaken()
        idx, _ = self.batch(model)
        logits = _call(model, idx)[0]
        targets = logits.argmax(-1)  # far from chance, so that a shift shows
        loss = _call(model, idx, targets)[1]
        expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        assert abs(loss.item() - expected.item()) <= 1e-4, (
            f"the loss is {loss.item():.4f}, and the logits' mean cross-entropy is {expected.item():.4f}: "
            f"targets[b, t] is what follows idx[b, t] already; F.cross_entropy(logits.flatten(0, 1), "
            f"targets.flatten()) is all there is to do"
        )

    def test_it_starts_from_knowing_nothing(self) -> None:
        """Catches an initialisation that is too large: the first steps would be spent on undoing it."""
        model = self.make()
        _, loss = _call(model, *self.batch(model, rows=8))
        assert abs(loss.item() - math.log(self.vocab_size)) <= self.start_loss, (
            f"the first loss is {loss.item():.3f}; ln(vocab_size) = {math.log(self.vocab_size):.3f} is that of equal "
            f"chances: start the head with smaller weights (std 0.02), or set start_loss where it is meant so"
        )

    def test_no_token_sees_a_later_one(self) -> None:
        """Catches a missing or shifted causal mask: training looks wonderful, and the text is noise."""
        model = self.shaken()
        idx, _ = self.batch(model)
        t = idx.shape[1] // 2
        other = idx.clone()
        other[:, t] = (other[:, t] + 1) % self.vocab_size
        with torch.no_grad():
            change = (_call(model, idx)[0] - _call(model, other)[0]).abs().amax(dim=(0, 2))
        early = change[:t]
        assert not early.numel() or float(early.max()) <= self.tolerance, (
            f"changing token {t} changes the logits at position {int(early.argmax())}, before it: mask what follows "
            f"(pealm_core.causal_attention does), and normalise over features, not over positions"
        )
        assert float(change[t]) > 0, f"changing token {t} does not change the logits at position {t}: idx is not used"

    def test_rows_do_not_see_each_other(self) -> None:
        """Catches statistics over the batch: what is learned would depend on how a batch is cut."""
        model = self.shaken()
        idx, targets = self.batch(model)
        alone = _call(model, idx[:1])[0]
        assert torch.allclose(alone, _call(model, idx)[0][:1], atol=self.tolerance), (
            "a row's logits differ with the rows beside it: normalise over features (LayerNorm), not over the batch"
        )
        halves = [_gradients(model, idx[i : i + 2], targets[i : i + 2]) for i in (0, 2)]
        whole = _gradients(model, idx, targets)
        for name, gradient in whole.items():
            mean = (halves[0][name] + halves[1][name]) / 2
            assert torch.allclose(mean, gradient, atol=1e-4, rtol=1e-3), (
                f"the gradient of {name} over a batch is not the mean of those over its halves, so two processes "
                f"would not learn what one does: give the mean loss over all tokens"
            )

    def test_every_parameter_learns(self) -> None:
        """Catches a layer that forward forgets (DDP would fail on it), and one that a detach cuts off."""
        model = self.make().train()
        before = copy.deepcopy(dict(model.named_parameters()))
        optimizer = torch.optim.AdamW(_trainable(model), lr=1e-2, weight_decay=0)
        for _ in range(5):
            optimizer.zero_grad()
            _call(model, *self.batch(model))[1].backward()
            missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert not missing, (
                f"{', '.join(missing)} has no gradient: use it in forward, remove it, or set requires_grad=False"
            )
            optimizer.step()
        still = [n for n, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
        assert not still, (
            f"{', '.join(still)} is the same after 5 steps: its gradient stays zero; is what it gives multiplied by "
            f"a zero that is never learned, or detached?"
        )

    def test_a_checkpoint_holds_all_of_it(self) -> None:
        """Catches state outside of the state_dict: a list of layers, a plain tensor, a buffer that is learned."""
        model, name = self.shaken(), self.entry.name
        idx, _ = self.batch(model)
        config = {"model": {"name": name, **dump(self.settings(vocab_size=self.vocab_size))}}
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "saved")
            checkpoint.save(
                place, model=model.state_dict(), config=config, tokenizer=Bytes(), state={"step": 1, "data": ""}
            )
            other = self.make(seed=5)
            try:
                checkpoint.load_model(other, place)
            except PealmError as error:
                raise AssertionError(
                    f"its state_dict does not fit a new model: {str(error).replace(folder, '')}"
                ) from error
        assert torch.equal(_call(model, idx)[0], _call(other, idx)[0]), (
            "a model with the saved state_dict gives other logits: keep what is learned or drawn in nn.Parameter, "
            "nn.ModuleList or register_buffer"
        )

    def test_the_same_seed_gives_the_same_model(self) -> None:
        """Catches randomness that torch's seed does not reach: `random`, numpy, the order of a set, the clock."""
        logits = []
        for _ in range(2):
            model = self.make(seed=3).train()
            optimizer = torch.optim.AdamW(_trainable(model), lr=1e-2)
            for step in range(3):
                torch.manual_seed(step)
                optimizer.zero_grad()
                _call(model, *self.batch(model))[1].backward()
                optimizer.step()
            logits.append(_call(model.eval(), self.batch(model)[0])[0])
        assert torch.equal(*logits), (
            "two models of one seed differ after three equal steps: draw from torch's generator only, in one order"
        )

    def test_it_learns_one_batch_by_heart(self) -> None:
        """Catches what keeps it from learning at all: a lost gradient, a wrong target, positions that are ignored."""
        model = self.make().train()
        idx, targets = self.batch(model)
        goal = _entropy(idx, targets, self.context)
        optimizer = torch.optim.AdamW(_trainable(model), lr=self.fit_lr, weight_decay=0)
        best = math.inf
        for _ in range(self.fit_steps):
            optimizer.zero_grad()
            loss = _call(model, idx, targets)[1]
            best = min(best, loss.item())
            if best <= goal + 0.1:
                return
            loss.backward()
            optimizer.step()
        context = "all of the window" if self.context is None else f"{self.context} token(s)"
        raise AssertionError(
            f"after {self.fit_steps} steps on one batch the loss is {best:.3f}; {goal:.3f} is what seeing {context} "
            f"allows. Is every part connected, are positions used? Where it sees less, say so: context = 1; where it "
            f"needs another rate or more steps: fit_lr, fit_steps"
        )

    @torch.no_grad()
    def test_the_cache_changes_nothing(self) -> None:
        """Catches a cache that samples other text than the model without it: positions, masks, the order of rows."""
        model = self.shaken()
        if not has(model, "make_cache"):
            raise SkipTest("it has no make_cache: for each token the whole window is run")
        block = model.config.block_size
        idx, _ = self.batch(model, rows=2, tokens=block)
        whole, _ = _call(model, idx)
        for cuts in ([1] * block, [block], [block // 2, 1, block - block // 2 - 1]):
            cache, parts = model.make_cache(2, block), []
            for part in idx.split([cut for cut in cuts if cut], dim=1):
                parts.append(_call(model, part, cache=cache)[0])
            worst = (torch.cat(parts, dim=1) - whole).abs().amax(dim=(0, 2))
            assert float(worst.max()) <= self.tolerance * 10, (
                f"with a cache, in parts of {_runs(cuts)} tokens, the logits differ from position "
                f"{int((worst > self.tolerance * 10).nonzero()[0])} on (by {float(worst.max()):.2g}): the cache "
                f"holds what came before, positions go on from it, and each call adds its T tokens"
            )
        if block < 2:
            return
        cache = model.make_cache(2, block)
        _call(model, idx[:, :1], cache=cache)
        several = cache.repeat(3)
        following = idx[:, 1:2].repeat_interleave(3, dim=0)
        found = _call(model, following, cache=several)[0]
        assert torch.allclose(found, whole[:, 1:2].repeat_interleave(3, dim=0), atol=self.tolerance * 10), (
            "cache.repeat(3) must give a cache in which each row became three, side by side, as "
            "Tensor.repeat_interleave(3, dim=0) orders them"
        )
        if has(cache, "select"):
            rows = torch.tensor([1, 0, 1])
            found = _call(model, idx[rows, 1:2], cache=cache.select(rows))[0]
            assert torch.allclose(found, whole[rows, 1:2], atol=self.tolerance * 10), (
                "cache.select(rows) must give a copy of these rows, in this order"
            )
        again = _call(model, idx[:, 1:2], cache=cache)[0]
        assert torch.allclose(again, whole[:, 1:2], atol=self.tolerance * 10), (
            "using what cache.repeat(3) or select gave changed the cache itself: they give copies"
        )

    def test_texts_of_any_length(self) -> None:
        """Catches a model that fails on one token, on a full window, or where sampling goes on beyond it."""
        model = self.shaken()
        block = model.config.block_size
        for length in (1, block):
            logits, _ = _call(model, self.batch(model, rows=1, tokens=length)[0])
            assert bool(logits.isfinite().all()), f"a text of {length} token(s) gives logits that are not finite"
        for prompt in ([0], list(range(self.vocab_size)) * (block // self.vocab_size + 1)):
            sampling = Sampling(max_new_tokens=block + 3, temperature=0, num_samples=2)
            texts = [
                torch.stack(list(generate_ids(model, prompt[: block + 1], sampling, use_cache=use)))
                for use in (True, False)
            ]
            assert torch.equal(*texts), (
                f"after a prompt of {min(len(prompt), block + 1)} tokens, greedy text differs with and without the "
                f"cache: see test_the_cache_changes_nothing"
            )

    def test_bf16_is_near_fp32(self) -> None:
        """Catches a forced fp32 or fp16 inside the model, and sums that bf16 ruins."""
        model = self.shaken()
        idx, _ = self.batch(model)
        exact = _call(model, idx)[0].detach()
        with autocast(torch.device("cpu"), torch.bfloat16):
            try:
                logits = _call(model, idx)[0].detach().float()
            except RuntimeError as error:
                raise AssertionError(
                    f"with --dtype bf16 it fails: {error}. Autocast gives some tensors in bf16: bring them together "
                    f"with .type_as(x) rather than a fixed dtype"
                ) from error
        off = float((logits - exact).square().mean().sqrt() / (exact.std() + 1e-3))
        assert off <= 0.1, (
            f"with --dtype bf16 the logits are off by {off:.0%} of their spread: take sums, norms and softmax in "
            f"fp32 (x.float())"
        )

    def test_a_compiled_one_gives_the_same_loss(self) -> None:
        """Catches code that torch.compile reads otherwise than Python does. Only where slow = True."""
        self._only_slow()
        model = self.shaken()
        batch = self.batch(model)
        with _quiet():  # aot_eager reads and rewrites the code as inductor does, and needs no C++ compiler
            compiled: Any = torch.compile(model, backend="aot_eager")
            loss, expected = compiled(*batch)[1].item(), _call(model, *batch)[1].item()
        torch.compiler.reset()
        assert abs(loss - expected) <= 1e-3, f"torch.compile gives a loss of {loss:.5f}, plain Python {expected:.5f}"

    def test_two_processes_learn_what_one_does(self) -> None:
        """Catches what DDP refuses or mixes up in a real second process. Only where slow = True."""
        self._only_slow()
        task = {"spec": self.entry.name, "config": dict(self.config), "vocab_size": self.vocab_size}
        alone = learn(task)
        for losses in on_ranks(2, "pealm_core.testing.ranks:learn", task):
            assert all(abs(a - b) <= 1e-4 for a, b in zip(losses, alone, strict=True)), (
                f"over the same steps two processes have losses {losses}, one has {alone}: without dropout, a loss "
                f"that is the mean over its rows gives the same"
            )

    def _only_slow(self) -> None:
        if not self.slow:
            raise SkipTest("takes ten seconds: slow = True in the test class, or `pealm plugins check --slow`")
        if self.entry.spec.pretrained is not None:
            raise SkipTest("its weights come from elsewhere; the checks are for its family")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of torch's compiler, which are not about the model."""
    with warnings.catch_warnings(action="ignore"):
        yield


def _call(model: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        result = model(*args, **kwargs)
    except TypeError as error:
        raise AssertionError(
            f"{error}: the signature is forward(self, idx, targets=None, *, cache=None, at=None)"
        ) from error
    assert isinstance(result, tuple) and len(result) == 2, (
        f"forward must give (logits, loss), and (logits, None) without targets, not {_kind(result)}"
    )
    return result


def _kind(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"a tensor of shape {tuple(result.shape)}"
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else f"{result!r:.60}"


def _shape(tensor: Any) -> Any:
    return tuple(tensor.shape) if isinstance(tensor, Tensor) else tensor


def _trainable(model: Any) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def _gradients(model: Any, idx: Tensor, targets: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    _call(model, idx, targets)[1].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _entropy(idx: Tensor, targets: Tensor, context: int | None) -> float:
    """Nats per token that remain to whoever knows the batch by heart and sees `context` tokens of it."""
    counts: dict[tuple[int, ...], dict[int, int]] = {}
    for row, follows in zip(idx.tolist(), targets.tolist(), strict=True):
        for t, target in enumerate(follows):
            seen = tuple(row[0 if context is None else max(0, t + 1 - context) : t + 1])
            inner = counts.setdefault(seen, {})
            inner[target] = inner.get(target, 0) + 1
    total = sum(-n * math.log(n / sum(inner.values())) for inner in counts.values() for n in inner.values())
    return total / idx.numel()


def _runs(cuts: list[int]) -> str:
    return "1" if set(cuts) == {1} else ", ".join(map(str, cuts))
