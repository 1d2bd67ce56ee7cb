"""The training loop."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pealm_core.checkpoints.tensors import flatten
from pealm_core.config.resolve_job import Job
from pealm_core.config.settings import TrainSettings
from pealm_core.contract.errors import PluginError, describe
from pealm_core.contract.protocols import Tokenizer
from pealm_core.contract.training_protocols import Objective, Schedule, Strategy
from pealm_core.data.order import combine
from pealm_core.data.sources import Data
from pealm_core.hardware.distributed import World
from pealm_core.hardware.faster_training import faster
from pealm_core.training.batches import Batches
from pealm_core.training.ddp import gradient_problem
from pealm_core.training.learning_rate import Budget, due, in_steps, lr_factor
from pealm_core.training.objective import accumulate, author
from pealm_core.training.observers import Observers
from pealm_core.training.progress import Display, not_finite, out_of_memory, record
from pealm_core.training.run_folder import Run
from pealm_core.training.saving import Saver
from pealm_core.training.signals import Signals
from pealm_core.training.validation import validate

NO_MEMORY = ("MemoryError", "allocate memory")  # also torch's OutOfMemoryError
READ_EVERY = {"cpu": 1, "cuda": 10, "mps": 10}  # steps: a read waits for a GPU


@dataclass(eq=False)  # hooks may use it as a key
class Trainer:
    """The training loop and its state: `step` and the numbers below it are all that a checkpoint has to keep."""

    job: Job
    run: Run
    model: nn.Module
    module: nn.Module  # the model as the strategy wraps it
    optimizer: torch.optim.Optimizer
    tokenizer: Tokenizer
    data: Data
    objective: Objective
    schedule: Schedule
    strategy: Strategy
    world: World
    device: torch.device
    dtype: torch.dtype
    display: Display
    step: int = 0
    sample: int = 0  # the number of the next sample
    seconds: float = 0.0  # spent training, earlier parts of the run included
    lr: float | None = None  # of the last step
    best_loss: float = math.inf
    val_loss: float | None = None  # of the last validation
    first_val_loss: float | None = None
    eval_seconds: float = 0.0  # what a validation takes
    stale: int = 0  # validations since the lowest loss
    validated: float | None = None  # the clock at the end of this process's last validation
    interrupted: int = 0  # the signal that asked the run to end, once every rank knows of it
    stopped: str = ""  # why a plugin asked the run to end
    _start: float = field(default_factory=time.perf_counter, init=False)  # the clock's zero
    _unread: list[tuple[dict[str, Any], Tensor]] = field(default_factory=list, init=False)
    _names: list[str] = field(default_factory=list, init=False)  # of what a step measures
    _since: float = field(default=0.0, init=False)  # when the first of these steps started

    def __post_init__(self) -> None:
        self.settings: TrainSettings = in_steps(self.job.configs["train"], len(self.data.train))
        self.budget, self.signals = Budget(self.settings), Signals(launched=self.world.size > 1)
        self.observers, self.saver = Observers(self), Saver(self)
        self.val_losses: dict[str, float] = {}  # of the last validation, by input or in bits per byte
        self.bytes_per_token: dict[str, float | None] = {}  # of the validation data by input
        self.options, self.register_state = self.job.observer, self.observers.register_state  # for hooks
        self.evaluating = self.observers.evaluating
        self.read_every = READ_EVERY[self.device.type]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        s, local = self.settings, self.settings.batch_size // self.world.size
        self.micro_batch_size = min(s.micro_batch_size or local, local)  # in a pass
        self.batches = Batches(self, ahead=self.device.type == "cuda" and "prefetch" not in s.without)

    def fit(self) -> None:
        """Train until the steps or seconds are used up, or one of `signals`, if active, comes; then save."""
        self._start = time.perf_counter() - self.seconds
        with faster(self.model, self.device, self.settings.without):
            try:
                self._loop()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # also SystemExit: the save that is being written is completed
                self.saver.wait()
                if any(words in describe(error) for words in NO_MEMORY):
                    raise out_of_memory(self) from error
                raise
            finally:
                self.batches.close()
            self.saver.settle(last=True)

    def _loop(self) -> None:
        s = self.settings
        if self.step == 0:
            self.first_val_loss = loss = self.validate()
            if loss is not None:
                seconds = round(self.seconds, 3)
                self.run.log({"step": 0, "tokens": 0, "val_loss": loss, **self.val_losses, "seconds": seconds})
        lines: list[dict[str, Any]] = []  # metrics of the steps that are not recorded yet
        last = self.finished()
        while not last:
            lines.append(self.update())
            self.observers.call("pealm_step_end")
            last, loss = self.finished(), None
            if not self.interrupted and (last or (due(self.step, s.eval_every) and self.affordable())):
                self.read()  # the steps' tokens per second must not include the validation
                loss = self.validate()
                last = self.finished()  # the validation may have used up the time, or a signal came
            full, best = last or due(self.step, s.save_every), loss is not None and loss < self.best_loss
            if loss is not None:
                lines[-1] |= {"val_loss": loss, **self.val_losses}
                self.best_loss = min(loss, self.best_loss)
            if full or loss is not None or due(self.step, s.sample_every) or not self._unread:
                self.read()  # no checkpoint is written before its losses are known to be finite
                for line in lines:
                    record(self, line)
                lines = []
            if full or best:
                self.saver.save(full=full, best=best)

    def update(self) -> dict[str, Any]:
        """Run one optimizer step; return its metrics, with the loss (nats per token) before the update."""
        s, block, began = self.settings, self.data.train.block_size, time.perf_counter()
        self._since = self._since if self._unread else began
        factor = lr_factor(self.schedule, self.progress(), self.step, s)
        self.lr, tokens = factor * s.lr, (self.sample + s.batch_size) * block
        line: dict[str, Any] = {"step": self.step + 1, "tokens": tokens, "loss": None, "lr": self.lr}
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        if sums := self.gradients():
            self._optimize(line, sums)
        self.step, self.sample = self.step + 1, self.sample + s.batch_size
        line["tokens_per_second"] = round(s.batch_size * block / (time.perf_counter() - began), 1)
        if len(self._unread) >= self.read_every:
            self.read()
        line["seconds"] = round(self.clock(), 3)
        return line

    def gradients(self) -> dict[str, Tensor]:
        """Run forward and backward over this rank's part of the step's batch.

        Returns its mean loss and metrics, on the device; nothing if the whole batch has no scored target.
        """
        batch, counts = self.batches.get(self.sample)
        if not (scored := int(sum(count for (count,) in self.world.gather(sum(counts))))):
            self.display.say(f"step {self.step + 1:,}: no token of the batch is scored; the step is skipped")
            return {}
        torch.manual_seed(combine(self.settings.seed, self.step, self.world.rank) % 2**63)  # dropout
        self.model.train()
        sums = accumulate(self, batch, [count * self.world.size / scored for count in counts])
        if problem := gradient_problem(self.model, self.strategy, several=self.world.size > 1):
            by = self.job.entries["model"].plugin.dist
            raise self.world.once(PluginError(f"{by}: step {self.step + 1}: {problem}"))
        return sums

    def _optimize(self, line: dict[str, Any], sums: dict[str, Tensor]) -> None:
        """Clip the gradients and update the weights, unless a gradient overflows in fp16."""
        parameters, clip = list(self.model.parameters()), self.settings.grad_clip
        self.scaler.unscale_(self.optimizer)
        sums |= {"loss_scale": self.scaler.scale(torch.ones_like(sums["loss"]))} if self.scaler.is_enabled() else {}
        sums["grad_norm"] = norm = self.strategy.grad_norm(parameters)
        first, self._names = not self._names, self._names or list(sums)
        if self._names != list(sums):
            by, names = author(self.objective, self.model), f"first {', '.join(self._names)}, now {', '.join(sums)}"
            raise PluginError(f"{by}: each step must have the same metrics: {names}")
        self._unread.append((line, torch.stack([value.to(sums["loss"]) for value in sums.values()])))
        if self.read_every == 1:
            self.read()  # before the update, so that a loss that is not finite changes nothing
        if clip and (self.read_every > 1 or float(norm) > clip):
            torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if first:  # in this process
            flatten(self.strategy.full_state(self.model, self.optimizer)[1], "the optimizer's state")  # as saved
            self.observers.state()

    def read(self) -> None:
        """Read the numbers since the last call and exchange failures of plugins. Raises PealmError if not finite."""
        if not self._unread:
            return
        unread, self._unread = self._unread, []
        values = torch.stack([numbers for _, numbers in unread]).flatten().tolist()  # waits for the device
        tokens = len(unread) * self.settings.batch_size * self.data.train.block_size
        speed = tokens / (time.perf_counter() - self._since)
        everyone = self.world.gather(*values, len(self.observers.failed))
        for place, (line, _) in enumerate(unread):
            if self.read_every > 1:
                line["tokens_per_second"] = round(speed, 1)
            for offset, name in enumerate(self._names, place * len(self._names)):
                numbers = [row[offset] for row in everyone]  # by rank
                wrong = [rank for rank, number in enumerate(numbers) if not math.isfinite(number)]
                line[name] = numbers[self.world.rank] if name == "grad_norm" else sum(numbers) / len(numbers)
                if wrong and name == "grad_norm" and line.get("loss_scale", 0) >= 1:
                    line[name] = None
                    self.display.say(f"step {line['step']:,}: a gradient overflows in fp16; the step is skipped")
                elif wrong and name in ("loss", "grad_norm"):
                    raise not_finite(name, line["step"], wrong[0], numbers[wrong[0]])
        if any(row[-1] for row in everyone):
            self.observers.share()

    def validate(self) -> float | None:
        """Return the mean loss in nats per token over the validation data; None if a signal cut it short."""
        return validate(self)

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
        return not self.settings.max_seconds or self.seconds - (self.validated or 0.0) > 10 * self.eval_seconds

    def finished(self) -> bool:
        """Return whether the steps or seconds are used up, or a signal or plugin asked the run to end."""
        if self.settings.max_seconds:
            self.clock()
        asked = self.world.gather(self.signals.number, bool(self.stopped))
        self.interrupted = int(max(number for number, _ in asked))
        if any(stopped for _, stopped in asked):
            self.stopped = next(filter(None, self.world.texts(self.stopped)))
        return bool(self.interrupted or self.stopped) or self.progress() >= 1.0

    def stop(self, reason: str) -> None:
        """End the run after the current step, as if its steps were used up."""
        self.stopped = self.stopped or str(reason) or "a plugin asked for it"
