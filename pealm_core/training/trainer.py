"""The training loop."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from pealm_core.config.settings import TrainSettings
from pealm_core.contract.errors import PealmError, PluginError
from pealm_core.data.order import combine
from pealm_core.data.windows import Windows
from pealm_core.hardware.distributed import World
from pealm_core.hardware.speed import faster
from pealm_core.training.batches import Batches
from pealm_core.training.objective import accumulate, out_of_memory, validation_loss
from pealm_core.training.recorder import Recorder
from pealm_core.training.schedule import Budget, due, lr_factor
from pealm_core.training.signals import Signals
from pealm_core.training.strategy import data_parallel, gradient_problem

# Steps between two reads of losses, by device: a GPU would have to be waited for in each step.
READ_EVERY = {"cpu": 1, "cuda": 10, "mps": 10}


@dataclass
class Trainer:
    """The training loop and its state: `step` and the numbers below it are all that a checkpoint has to keep."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    train: Windows
    val: Windows
    settings: TrainSettings
    world: World
    device: torch.device
    dtype: torch.dtype
    recorder: Recorder
    step: int = 0
    seconds: float = 0.0  # spent training, earlier parts of the run included
    best_loss: float = math.inf
    val_loss: float | None = None  # of the last validation
    first_val_loss: float | None = None
    eval_seconds: float = 0.0  # what a validation takes
    interrupted: int = 0  # the signal that asked the run to end, once every rank knows of it
    _start: float = field(default_factory=time.perf_counter, init=False)  # the clock's zero
    _validated: float | None = field(default=None, init=False)  # the clock at the end of the last validation
    _unread: list[tuple[dict[str, Any], torch.Tensor]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.budget, self.signals = Budget(self.settings), Signals(launched=self.world.size > 1)
        self.read_every = READ_EVERY[self.device.type]
        local = self.settings.batch_size // self.world.size
        self.micro_batch_size = min(self.settings.micro_batch_size or local, local)  # sequences in a pass
        prefetch = self.device.type == "cuda" and "prefetch" not in self.settings.without
        size, rank, ranks = self.settings.batch_size, self.world.rank, self.world.size
        self.batches = Batches(
            lambda step: self.train.batch(step, size, rank=rank, world_size=ranks), self.device, ahead=prefetch
        )

    def fit(self) -> None:
        """Train until the steps or seconds are used up, or one of `signals`, if active, comes; then save."""
        self._start = time.perf_counter() - self.seconds
        model = data_parallel(self.model) if self.world.size > 1 else self.model
        with faster(self.model, self.device, self.settings.without):
            try:
                with out_of_memory(self._memory_advice):
                    self._loop(model)
            except KeyboardInterrupt:
                raise
            except BaseException:  # also SystemExit: the save that is being written is completed
                self.recorder.finish(self, failed=True)
                raise
            finally:
                self.batches.close()
            self.recorder.finish(self, failed=False)

    def _loop(self, model: torch.nn.Module) -> None:
        s = self.settings
        if self.step == 0:
            self.first_val_loss = self.validate()
        lines: list[dict[str, Any]] = []  # metrics of the steps that are not recorded yet
        last = bool(self.interrupted)
        while not last:
            lines.append(self.update(model))
            last, loss = self.finished(), None
            if not self.interrupted and (last or (due(self.step, s.eval_every) and self.affordable())):
                loss = self.validate()
                last = self.finished()  # the validation may have used up the time, or a signal came
            full, best = last or due(self.step, s.save_every), loss is not None and loss < self.best_loss
            if loss is not None:
                lines[-1]["val_loss"], self.best_loss = loss, min(loss, self.best_loss)
            if full or loss is not None or due(self.step, s.sample_every) or not self._unread:
                self.read()  # no checkpoint is written before its losses are known to be finite
                for line in lines:
                    self.recorder.step(self, line)
                lines = []
            if full or best:
                self.recorder.save(self, full=full, best=best)

    def update(self, model: torch.nn.Module) -> dict[str, Any]:
        """Run one optimizer step; return its metrics, with the loss (nats per token) before the update."""
        s, began = self.settings, time.perf_counter()
        factor, tokens = lr_factor(self.progress(), self.step, s), s.batch_size * self.train.block_size
        line = {"step": self.step + 1, "tokens": (self.step + 1) * tokens, "loss": 0.0, "lr": factor * s.lr}
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        loss = self.gradients(model)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self._unread.append((line, torch.stack((loss, norm.to(loss)))))
        if self.read_every == 1:
            self.read()  # before the update, so that a loss that is not finite changes nothing
        if s.grad_clip and (self.read_every > 1 or float(norm) > s.grad_clip):
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), s.grad_clip, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if len(self._unread) >= self.read_every or (self.signals.number and self.world.size == 1):
            self.read()
        line["tokens_per_second"] = round(tokens / (time.perf_counter() - began), 1)
        line["seconds"] = round(self.clock(), 3)
        return line

    def gradients(self, model: torch.nn.Module) -> torch.Tensor:
        """Run forward and backward over this rank's part of the step's batch; return its mean loss, on the device."""
        batch = self.batches.get(self.step)
        torch.manual_seed(combine(self.settings.seed, self.step, self.world.rank) % 2**63)  # dropout
        self.model.train()
        loss = accumulate(model, batch, self.micro_batch_size, self.dtype, sync=self.world.size > 1)
        if problem := gradient_problem(self.model, several=self.world.size > 1):
            plugin = self.recorder.job.entries["model"].plugin.dist
            raise self.world.once(PluginError(f"{plugin}: step {self.step + 1}: {problem}"))
        return loss

    def read(self) -> None:
        """Read the losses and gradient norms of the steps since the last call, and whether a signal came on any rank.

        Raises PealmError if a number is not finite on any rank.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return
        values = torch.stack([pair for _, pair in unread]).tolist()  # waits for the device
        everyone = self.world.gather(*(number for pair in values for number in pair), self.signals.number)
        self.interrupted = int(max(row[-1] for row in everyone))
        for place, (line, _) in enumerate(unread):
            losses, norms = ([row[2 * place + part] for row in everyone] for part in (0, 1))
            for what, numbers in (("loss", losses), ("gradient norm", norms)):
                for rank, number in enumerate(numbers):
                    if not math.isfinite(number):
                        raise PealmError(
                            f"the {what} is not finite at step {line['step']} (rank {rank}): loss {losses[rank]}, "
                            f"gradient norm {norms[rank]}; the last checkpoint is kept. Try a lower --lr or more "
                            f"--warmup-steps"
                        )
            line["loss"], line["grad_norm"] = sum(losses) / len(losses), values[place][1]

    def validate(self) -> float | None:
        """Return the mean loss in nats per token over the validation windows; None if a signal cut it short."""
        ends = [time.perf_counter()]  # of the rounds

        def round_done() -> bool:
            ends.append(time.perf_counter())
            return bool(self.signals.number)

        s = self.settings
        loss = validation_loss(self.model, self.val, s.eval_tokens, self.world, self.device, self.dtype, round_done)
        if loss is None:
            self.interrupted = int(max(number for (number,) in self.world.gather(self.signals.number)))
            return None
        counted = ends if self._validated is not None else ends[1:]  # the process's first pass may have compiled
        seconds = (counted[-1] - counted[0]) * (len(ends) - 1) / max(1, len(counted) - 1)
        self.val_loss, self.eval_seconds = loss, self.world.gather(seconds)[0][0]
        self._validated = self.clock()
        return loss

    def clock(self) -> float:
        """Return the seconds of training so far, earlier parts of the run included; a time limit counts rank 0's."""
        self.seconds = time.perf_counter() - self._start
        if self.settings.max_seconds:
            self.seconds = self.world.gather(self.seconds)[0][0]
        return self.seconds

    def progress(self) -> float:
        """Return the fraction of the run that is done, 0 to 1."""
        return self.budget.progress(self.step, self.seconds, self.eval_seconds)

    def affordable(self) -> bool:
        """Return whether a validation is worth its time: with a time limit, they take a tenth of it at most."""
        since = self.seconds - (self._validated or 0.0)
        return not self.settings.max_seconds or since > 10 * self.eval_seconds

    def finished(self) -> bool:
        """Return whether the steps or seconds are used up, or a signal asked the run to end."""
        if self.settings.max_seconds:
            self.clock()
        return bool(self.interrupted) or self.progress() >= 1.0

    def _memory_advice(self) -> str:
        micro, block = self.micro_batch_size, self.train.block_size
        smaller = f"--micro-batch-size {micro // 2}" if micro > 1 else f"--block-size {block // 2}"
        return (
            f"out of memory on {self.device} at step {self.step + 1} (rank {self.world.rank}): {micro} sequences of "
            f"{block} tokens in a pass; try {smaller} or a smaller model (--model.n-layer, ...)"
        )
