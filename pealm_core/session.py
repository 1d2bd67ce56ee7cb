"""A training run from a resolved job to the last line on the screen: data, model, run folder, loop, summary."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pealm_core import checkpoint
from pealm_core.build import make, make_component, make_model, make_tokenizer
from pealm_core.config import dump
from pealm_core.data import Corpus, Windows, fingerprint, tokenize
from pealm_core.device import pick_device, pick_dtype
from pealm_core.distributed import World, start, stop
from pealm_core.errors import InvalidCheckpointError, UserError
from pealm_core.job import Job
from pealm_core.progress import Display
from pealm_core.protocols import Dataset, Tokenizer
from pealm_core.run import CONFIG, Run, new_folder
from pealm_core.settings import RESUMABLE, TrainSettings
from pealm_core.tensors import read_optimizer
from pealm_core.trainer import Trainer


def run_training(job: Job, out: Path | None) -> int:
    """Train, in a new folder or on from what `out` holds; gives the exit code. Raises PealmError."""
    world = start()
    try:
        return _run(job, out, world)
    finally:
        stop()


def _run(job: Job, out: Path | None, world: World) -> int:
    s: TrainSettings = job.configs["train"]
    device = pick_device(s.device, world.local_rank)
    dtype = pick_dtype(s.dtype, device)
    resuming = out is not None and (out / CONFIG).exists()
    dataset: Dataset = make_component(job, "input")
    floor_per_character = getattr(dataset, "entropy_floor", None)
    if resuming and out:
        _check_same(out / CONFIG, job)
    with Display(quiet=not world.main) as display:
        saved = _saved_tokenizer(out) if resuming and out else None
        tokenizer = make_tokenizer(job, saved, dataset)
        corpus = _corpus(job, dataset, tokenizer, display)
        torch.manual_seed(s.seed)
        model, job = make_model(job, tokenizer.vocab_size)
        train, val = _windows(job, s, corpus)
        display.floor = floor_per_character and floor_per_character * corpus.characters_per_token
        model = model.to(device)
        lr: dict[str, Any] = {"lr": s.lr}
        config = job.configs["optimizer"]
        optimizer = make(job.entries["optimizer"], *([] if config is None else [config]), model, **lr)
        run = Run(out or new_folder(job.entries["model"].name), job.tables(), rank=world.rank)
        reporter = Reporter(run, job, tokenizer, corpus, display)
        trainer = Trainer(model, optimizer, train, val, s, world, device, dtype, reporter)
        try:
            if resuming:
                _resume(run, trainer, corpus, display)
            if trainer.progress() >= 1.0:
                more = "--max-seconds" if s.max_seconds else "--steps"
                display.say(f"{run.dir} is finished: {trainer.step:,} steps. A larger {more} goes on from there.")
                return 0
            _introduce(job, run, model, train, tokenizer, corpus, device, display)
            return _fit(job, run, trainer, display)
        finally:
            run.close()


def _fit(job: Job, run: Run, trainer: Trainer, display: Display) -> int:
    status = "failed"
    job.host.notify("pealm_run_start", run=run)
    try:
        trainer.fit()
        status = "interrupted" if trainer.interrupted else "done"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        job.host.notify("pealm_run_end", run=run, status=status)
    _summarize(run, trainer, display)
    return 128 + trainer.interrupted if trainer.interrupted else 0


@dataclass
class Reporter:
    """Carries what the loop tells to metrics.jsonl, the screen, the plugins and the disk."""

    run: Run
    job: Job
    tokenizer: Tokenizer
    corpus: Corpus
    display: Display

    def step(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        """Write the step's line and show it."""
        self.run.log(metrics)
        self.display.step(metrics, trainer.progress())
        self.job.host.notify("pealm_step_end", run=self.run, step=trainer.step, metrics=metrics)

    def save(self, trainer: Trainer) -> None:
        """A full checkpoint, `checkpoints/step-00000500`."""
        folder = self.run.dir / "checkpoints" / f"step-{trainer.step:08d}"
        self._write(folder, trainer, optimizer=trainer.optimizer.state_dict())

    def best(self, trainer: Trainer) -> None:
        """The weights of the lowest validation loss, `best`."""
        self._write(self.run.dir / "best", trainer)

    def _write(self, folder: Path, trainer: Trainer, optimizer: Mapping[str, Any] | None = None) -> None:
        if trainer.world.main:
            checkpoint.save(
                folder,
                model=trainer.model.state_dict(),
                optimizer=optimizer,
                config=self.run.config,
                tokenizer=self.tokenizer,
                state={
                    "step": trainer.step,
                    "seconds": trainer.seconds,
                    "val_loss": trainer.val_loss,
                    "best_loss": trainer.best_loss if math.isfinite(trainer.best_loss) else None,
                    "first_val_loss": trainer.first_val_loss,
                    "world_size": trainer.world.size,
                    "data": self.corpus.key,
                },
            )
        self.job.host.notify("pealm_checkpoint_saved", run=self.run, path=folder)


def _saved_tokenizer(run: Path) -> Path | None:
    """The tokenizer of the run's newest valid checkpoint: a run that goes on never learns another vocabulary."""
    for folder in reversed(checkpoint.steps(run)):
        try:
            checkpoint.verify(folder)
        except InvalidCheckpointError:
            continue
        return folder / checkpoint.TOKENIZER
    return None


def _corpus(job: Job, dataset: Dataset, tokenizer: Tokenizer, display: Display) -> Corpus:
    entry = job.entries["tokenizer"]
    mark = fingerprint(entry.spec.name, dump(job.configs["tokenizer"]), tokenizer)
    corpus = tokenize(dataset, tokenizer, mark, say=display.say)
    name = job.entries["input"].name
    for split, shards in (("training", corpus.train), ("validation", corpus.val)):
        if not shards:
            raise UserError(f"--input.{name} has no {split} text")
    return corpus


def _windows(job: Job, s: TrainSettings, corpus: Corpus) -> tuple[Windows, Windows]:
    largest = job.configs["model"].block_size
    if s.block_size is not None and s.block_size > largest:
        raise UserError(
            f"--block-size {s.block_size} is beyond the model's {largest}; raise --model.block-size or lower it"
        )
    block, windows = s.block_size or largest, []
    for split, shards in (("training", corpus.train), ("validation", corpus.val)):
        try:
            windows.append(Windows(shards, block, seed=s.seed))
        except ValueError as error:
            raise UserError(
                f"--input.{job.entries['input'].name}: the {split} text is too short: {error}; "
                f"give more text or a smaller --block-size"
            ) from error
    return windows[0], windows[1]


def _check_same(path: Path, job: Job) -> None:
    """Raise UserError where the job differs from the run's config in more than a run may change."""
    from pealm_core.config import read_toml

    there, _ = read_toml(path)
    here = job.tables()
    for table in (table for table in ("model", "tokenizer", "optimizer", "input", "train") if table in here):
        old, new = there.get(table, {}), here[table]
        for key in sorted(old.keys() | new.keys(), key=lambda key: (key != "name", key)):
            if (table == "train" and key.replace("-", "_") in RESUMABLE) or (table, key) == ("model", "vocab-size"):
                continue
            if key == "name" and job.entries[table].plugin.dist in there.get("versions", {}):
                old, new = ({**values, key: values.get(key, "").rpartition("/")[2]} for values in (old, new))
            if old.get(key) != new.get(key):
                raise UserError(
                    f"{path.parent} was begun with [{table}] {key} = {old.get(key)!r}, not {new.get(key)!r}; "
                    f"go on with the same value, or start a new run with another --out"
                )


def _resume(run: Run, trainer: Trainer, corpus: Corpus, display: Display) -> None:
    """Put the newest valid checkpoint into the trainer; from the start where there is none."""
    newest = run.newest()
    run.rewind(newest[1]["step"] if newest else 0)
    if newest is None:
        display.say(f"{run.dir} has no valid checkpoint yet: starting from step 0")
        return
    folder, state, wrong = newest
    for line in wrong:
        display.say(f"skipped: {line}")
    if state["data"] != corpus.key:
        raise UserError(f"{run.dir}: the input's text or tokenizer has changed since the run began")
    checkpoint.load_model(trainer.model, folder)
    trainer.optimizer.load_state_dict(read_optimizer(folder / checkpoint.OPTIMIZER))
    trainer.step, trainer.seconds = state["step"], state["seconds"]
    trainer.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
    trainer.val_loss, trainer.first_val_loss = state["val_loss"], state["first_val_loss"]
    display.say(f"going on from {folder}")


def _introduce(
    job: Job,
    run: Run,
    model: torch.nn.Module,
    train: Windows,
    tokenizer: Tokenizer,
    corpus: Corpus,
    device: torch.device,
    display: Display,
) -> None:
    size = sum(p.numel() for p in model.parameters())
    display.say(f"model   {job.entries['model'].name}: {size:,} parameters on {device}")
    known = ", tokens from the cache" if corpus.cached else ""
    display.say(
        f"input   {job.entries['input'].name}: {train.tokens:,} training tokens, "
        f"vocabulary of {tokenizer.vocab_size:,}{known}"
    )
    display.say(f"run     {run.dir}")


def _summarize(run: Run, trainer: Trainer, display: Display) -> None:
    if trainer.val_loss is None:
        return
    before = "" if trainer.first_val_loss is None else f"{trainer.first_val_loss:.4f} before, "
    display.say(
        f"validation loss {before}{trainer.val_loss:.4f} now, {trainer.best_loss:.4f} at best "
        f"({trainer.step:,} steps, {trainer.seconds:.0f} s)"
    )
    if display.floor:
        ratio = trainer.best_loss / display.floor
        display.say(f"entropy floor   {display.floor:.4f}: no model can do better; the best is {ratio:.3f} times it")
    if trainer.interrupted:
        display.say(f"interrupted; go on with: pealm train --out {shlex.quote(str(run.dir))}")
    else:
        display.say(f"sample from it: pealm sample --ckpt {shlex.quote(str(run.dir))}")
