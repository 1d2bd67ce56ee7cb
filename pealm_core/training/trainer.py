"""The training loop."""

import inspect
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch.nn.parallel import DistributedDataParallel

from pealm_core.config.settings import TrainSettings, lr_scale
from pealm_core.contract.errors import PealmError
from pealm_core.data.order import combine
from pealm_core.data.windows import Batch, Windows
from pealm_core.hardware.device import autocast
from pealm_core.hardware.distributed import World
from pealm_core.hardware.speed import faster
from pealm_core.training.batches import Batches

ECHO_SECONDS = 2.0
EVAL_TOKENS = 8192  # in one pass of validation, which keeps no activations


class Reporter(Protocol):
    """What the loop tells of itself: to a run folder, a screen, plugins."""

    def step(self, trainer: "Trainer", metrics: Mapping[str, Any]) -> None:
        """A step is done; called on every rank."""

    def save(self, trainer: "Trainer", *, full: bool, best: bool) -> None:
        """Save a checkpoint to go on from (full), the weights of the lowest loss so far (best); on every rank."""

    def finish(self, trainer: "Trainer", *, failed: bool) -> None:
        """The loop is over: wait for what is still being saved. Raises PealmError where that fails."""


@dataclass
class Trainer:
    """What the loop works on, and how far it is: `step` and the numbers behind it are all of its state."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    train: Windows
    val: Windows
    settings: TrainSettings
    world: World
    device: torch.device
    dtype: torch.dtype
    reporter: Reporter
    step: int = 0
    seconds: float = 0.0  # spent training, earlier parts of the run included
    best_loss: float = math.inf
    val_loss: float | None = None  # of the last validation
    first_val_loss: float | None = None
    eval_seconds: float = 0.0  # that the last validation took
    interrupted: int = 0  # the signal that asked the run to end, once every rank knows of it
    _began: float = field(default_factory=time.perf_counter, init=False)  # the clock's zero
    _evaluated: float = field(default=0.0, init=False)  # the clock at its end
    _signal: int = field(default=0, init=False)  # the signal that this process got

    @cached_property
    def batches(self) -> Batches:
        """This rank's batches, on the device."""
        s, world = self.settings, self.world
        ahead = self.device.type == "cuda" and "prefetch" not in s.without

        def draw(step: int) -> Batch:
            return self.train.batch(step, s.batch_size, rank=world.rank, world_size=world.size)

        return Batches(draw, self.device, ahead=ahead)

    def fit(self) -> None:
        """Train until the steps or the seconds are used up, or a signal comes; then validate and save."""
        self._began = time.perf_counter() - self.seconds
        model = _parallel(self.model) if self.world.size > 1 else self.model
        with _signals(self), faster(self.model, self.device, self.settings.without):
            try:
                self._loop(model)
            except Exception:
                self.reporter.finish(self, failed=True)
                raise
            finally:
                self.batches.close()
            self.reporter.finish(self, failed=False)

    def _loop(self, model: torch.nn.Module) -> None:
        s, last = self.settings, False
        if self.step == 0:
            self.first_val_loss = self.validate()
        while not last:
            metrics = self.update(model)
            last = self.finished()
            if last or (due(self.step, s.eval_every) and self.affordable()):
                metrics["val_loss"] = self.validate()
                last = self.finished()  # a validation may have used up the time
            self.reporter.step(self, metrics)
            full, best = last or due(self.step, s.save_every), metrics.get("val_loss", math.inf) < self.best_loss
            if best:
                self.best_loss = metrics["val_loss"]
            if full or best:
                self.reporter.save(self, full=full, best=best)

    def update(self, model: torch.nn.Module) -> dict[str, Any]:
        """One optimizer step; gives its line of metrics.jsonl, with the loss (nats per token) before the update."""
        s, began, scale = self.settings, time.perf_counter(), self.scale()
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * scale
        with _memory(self):
            mean = self.gradients(model)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        total = torch.nn.utils.get_total_norm(gradients)
        loss, norm = torch.stack((mean, total.to(mean))).tolist()  # the step's one wait for the device
        everyone = self.world.gather(loss, norm, self._signal)
        check_finite(self.step + 1, [row[:2] for row in everyone])
        self.interrupted = int(max(row[2] for row in everyone))  # all ranks end at one step
        loss = sum(row[0] for row in everyone) / len(everyone)
        if s.grad_clip and norm > s.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), s.grad_clip, total)
        with _memory(self):  # its state is made in the first step
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        tokens = s.batch_size * self.train.block_size
        speed = tokens / (time.perf_counter() - began)
        return {
            "step": self.step,
            "tokens": self.step * tokens,
            "loss": loss,
            "lr": scale * s.lr,
            "grad_norm": norm,
            "tokens_per_second": round(speed, 1),
            "seconds": round(self.clock(), 3),
        }

    def gradients(self, model: torch.nn.Module) -> torch.Tensor:
        """Forward and backward over this rank's share of the step's batch; gives its mean loss, on the device."""
        s = self.settings
        share = s.batch_size // self.world.size
        micro = min(s.micro_batch_size or share, share)
        idx, targets = self.batches.get(self.step)
        torch.manual_seed(combine(s.seed, self.step, self.world.rank) % 2**63)  # dropout
        self.model.train()
        total = torch.zeros((), device=self.device)
        for start in range(0, share, micro):
            last = start + micro >= share
            with nullcontext() if last or self.world.size == 1 else model.no_sync():  # type: ignore[operator]
                with autocast(self.device, self.dtype):
                    _, loss = model(
                        idx[start : start + micro],
                        targets[start : start + micro],
                    )
                loss = loss * (micro / share)
                loss.backward()
            total += loss.detach()
        return total

    @torch.no_grad()
    def validate(self) -> float:
        """The mean loss in nats per token over the same validation windows every time, on all ranks."""
        began = time.perf_counter()
        self.model.eval()
        places = self.val.fixed(self.settings.eval_tokens)
        rows = max(1, EVAL_TOKENS // self.val.block_size)
        total, count = 0.0, 0
        # Every rank takes part in every round; one for which nothing is left looks at a row that does not count.
        for start in range(0, len(places), self.world.size * rows):
            round_ = places[start : start + self.world.size * rows]
            mine = round_[self.world.rank :: self.world.size]
            idx, targets = self.val.rows(mine or round_[:1])
            with autocast(self.device, self.dtype), _memory(self):
                _, loss = self.model(idx.to(self.device), targets.to(self.device))
            total += float(loss) * len(mine)
            count += len(mine)
        everyone = self.world.gather(total, count, time.perf_counter() - began)
        self.val_loss = sum(row[0] for row in everyone) / sum(row[1] for row in everyone)
        self.eval_seconds = everyone[0][2]
        self._evaluated = self.clock()
        return self.val_loss

    def clock(self) -> float:
        """Seconds of training so far, earlier parts of the run included; where they decide, those of rank 0."""
        self.seconds = time.perf_counter() - self._began
        if self.settings.max_seconds:
            self.seconds = self.world.gather(self.seconds)[0][0]
        return self.seconds

    def progress(self) -> float:
        """How far the schedule is, 0 to 1. By time, the last validation's seconds are kept back for the last one."""
        s = self.settings
        if s.max_seconds:
            return min(1.0, self.seconds / max(s.max_seconds - 1.5 * self.eval_seconds, 1e-9))
        assert s.steps
        return min(1.0, self.step / s.steps)

    def scale(self) -> float:
        """The share of the peak learning rate at this step; the schedule begins when the warm-up ends."""
        s = self.settings
        progress = self.progress()
        if s.steps:
            progress = (self.step - s.warmup_steps) / max(1, s.steps - s.warmup_steps)
        return lr_scale(progress, self.step, s)

    def affordable(self) -> bool:
        """Whether a validation is worth its time: where time is limited, they take a tenth of it at most."""
        return not self.settings.max_seconds or self.seconds - self._evaluated > 10 * self.eval_seconds

    def finished(self) -> bool:
        """Whether the steps or the seconds are used up, or a signal asked to end."""
        if self.settings.max_seconds:
            self.clock()
        return bool(self.interrupted) or self.progress() >= 1.0


def check_finite(step: int, everyone: Sequence[Sequence[float]]) -> None:
    """Raise PealmError where a rank's loss, or else its gradient norm, is not finite. everyone: both, by rank."""
    for place, what in enumerate(("loss", "gradient norm")):
        for rank, values in enumerate(everyone):
            if not math.isfinite(values[place]):
                raise PealmError(
                    f"the {what} is not finite at step {step} (rank {rank}): loss {values[0]}, "
                    f"gradient norm {values[1]}; nothing was updated. A lower --lr or more --warmup-steps may help"
                )


def _parallel(model: torch.nn.Module) -> torch.nn.Module:
    """Gradients averaged over the processes. Buffers are not sent around: a model's are constants."""
    names = inspect.signature(DistributedDataParallel).parameters  # torch 2.13 has renamed it
    sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    options: dict[str, Any] = {sync: False}
    return DistributedDataParallel(model, **options)


def due(step: int, every: int) -> bool:
    """Whether what comes every so many steps comes now; 0: never."""
    return every > 0 and step % every == 0


@contextmanager
def _memory(trainer: Trainer) -> Iterator[None]:
    """Running out of memory becomes a PealmError that says what to make smaller."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        s, world = trainer.settings, trainer.world
        share = s.batch_size // world.size
        micro = min(s.micro_batch_size or share, share)
        smaller = f"--micro-batch-size {micro // 2}" if micro > 1 else f"--block-size {trainer.train.block_size // 2}"
        raise PealmError(
            f"out of memory on {trainer.device} at step {trainer.step + 1} (rank {world.rank}): {micro} sequences of "
            f"{trainer.train.block_size} tokens in a pass; try {smaller} or a smaller model (--model.n-layer, ...)"
        ) from error


@contextmanager
def _signals(trainer: Trainer) -> Iterator[None]:
    """SIGINT and SIGTERM ask the loop to end after this step; a second Ctrl-C ends at once."""
    asked = 0.0

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        # torchrun repeats a signal that its processes got from the terminal already.
        repeated = trainer.world.size > 1 and time.monotonic() - asked < ECHO_SECONDS
        if trainer._signal and not repeated:
            raise KeyboardInterrupt
        trainer._signal, asked = number, time.monotonic()

    old: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread: whoever runs us deals with signals
        pass
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
