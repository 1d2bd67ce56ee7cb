"""`pealm train`, from a resolved job to the last line on the screen: data, model, run folder, loop, summary."""

import os
import platform
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.build import make, make_component, make_model, make_tokenizer
from pealm_core.checkpoints.initial_weights import read_initial_weights
from pealm_core.config.job import Job
from pealm_core.config.settings import TrainSettings
from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import dump
from pealm_core.contract.protocols import Dataset, Tokenizer, has
from pealm_core.data.token_cache import Corpus, fingerprint, open_shards, tokenize
from pealm_core.data.windows import Windows
from pealm_core.hardware.device import pick_device, pick_dtype
from pealm_core.hardware.distributed import World, join, leave, one_by_one, peers, this_process
from pealm_core.hardware.speed import describe
from pealm_core.training.progress import Display
from pealm_core.training.recorder import Recorder
from pealm_core.training.resume import check_same_settings, newest_checkpoint, restore
from pealm_core.training.run_folder import CONFIG, Run, new_folder, restarted_folder
from pealm_core.training.trainer import Trainer


def train(job: Job, out: Path | None) -> int:
    """Train in a new folder, or resume the run in `out`; return the exit code. Raises PealmError."""
    world = this_process()
    device = pick_device(job.configs["train"].device, world.local_rank)
    join(world, device)
    with peers(world), Display(quiet=not world.main) as display:
        code = _train(job, out, world, device, display)
    leave()
    return code


@dataclass(frozen=True)
class Parts:
    """What a run is built from; `job` as built, with the model's vocab_size filled in."""

    job: Job
    dataset: Dataset
    tokenizer: Tokenizer
    corpus: Corpus
    model: torch.nn.Module


def _train(job: Job, out: Path | None, world: World, device: torch.device, display: Display) -> int:
    name = job.entries["model"].name
    restarted = world.texts(str(restarted_folder(name) or ""))[0]
    folder = out or (Path(restarted) if restarted else None)
    resuming = folder is not None and (folder / CONFIG).exists()
    with world.together():
        if folder is not None and (folder / checkpoint.STATE).exists():
            raise UserError(f"--out {folder} is a checkpoint, not a run; --init {folder} starts from its weights")
        if folder is not None and resuming:
            check_same_settings(folder / CONFIG, job)
    newest, wrong = newest_checkpoint(folder, world) if folder is not None and resuming else (None, [])
    parts = _build(job, newest, world, display)
    job = parts.job
    with world.together():
        train, val = _windows(parts)
        model = parts.model.to(device)
        config = job.configs["optimizer"]
        optimizer = make(
            job.entries["optimizer"], *([] if config is None else [config]), model, lr=job.configs["train"].lr
        )
    if folder is None:
        with world.together():
            folder = new_folder(name) if world.main else None
        folder = Path(world.texts(str(folder))[0])
    with world.together():
        run = Run(folder, job.tables(), rank=world.rank, resuming=resuming)
        recorder = Recorder(run, job, parts.tokenizer, parts.corpus.key, display)
        dtype = pick_dtype(job.configs["train"].dtype, device)
        trainer = Trainer(model, optimizer, train, val, job.configs["train"], world, device, dtype, recorder)
    floor, ratio = getattr(parts.dataset, "entropy_floor", None), parts.corpus.characters_per_token
    display.floor = floor * ratio if floor and ratio else None
    try:
        with world.together():
            if resuming:
                restore(run, trainer, parts.corpus.key, display, newest, wrong)
        if trainer.progress() >= 1.0:
            option = "--max-seconds" if trainer.settings.max_seconds else "--steps"
            display.say(f"{run.dir} is finished: {trainer.step:,} steps. A larger {option} resumes it.")
            return 0
        with world.together():
            run.keep_config()
        _introduce(parts, trainer, display)
        return _fit(parts, trainer, display)
    finally:
        run.close()


def _build(job: Job, newest: Path | None, world: World, display: Display) -> Parts:
    """Build dataset, tokenizer, tokens and model; with a checkpoint to resume from, its tokenizer."""
    s: TrainSettings = job.configs["train"]
    with world.together():
        job.entries["model"].load("factory")  # a misspelt one is reported before a long tokenization
        dataset: Dataset = make_component(job, "input")
    with one_by_one(world):  # the first process of a machine fills the caches for its others
        weights, saved = None, newest and newest / checkpoint.TOKENIZER
        if s.init and newest is None:
            job, weights, saved = read_initial_weights(job, s.init)
        tokenizer = make_tokenizer(job, saved, dataset)
        corpus = _corpus(job, dataset, tokenizer, display)
        torch.manual_seed(s.seed)
        model, job = make_model(job, tokenizer.vocab_size, weights)
    tables = {f"[{table}] {key}": value for table, values in job.tables().items() for key, value in values.items()}
    with world.together():
        world.agree({**tables, "torch": torch.__version__, "the tokens": corpus.key})
        if s.sample_every:
            try:
                tokenizer.encode(s.sample_prompt)
            except ValueError as error:
                raise UserError(f"--sample-prompt: {error}") from error
    return Parts(job, dataset, tokenizer, corpus, model)


def _corpus(job: Job, dataset: Dataset, tokenizer: Tokenizer, display: Display) -> Corpus:
    if has(dataset, "shards"):
        corpus = open_shards(dataset, tokenizer.vocab_size)
    else:
        entry = job.entries["tokenizer"]
        mark = fingerprint(entry.spec.name, dump(job.configs["tokenizer"]), tokenizer)
        corpus = tokenize(dataset, tokenizer, mark, say=display.say)
    for split, shards in (("training", corpus.train), ("validation", corpus.val)):
        if not shards:
            raise UserError(f"--input.{job.entries['input'].name} has no {split} text")
    return corpus


def _windows(parts: Parts) -> tuple[Windows, Windows]:
    """Return the training and validation windows of the run's block size."""
    s, model = parts.job.configs["train"], parts.model
    largest: Any = model.config.block_size  # type: ignore[union-attr]
    if s.block_size is not None and s.block_size > largest:
        raise UserError(
            f"--block-size {s.block_size} is above the model's {largest}; raise --model.block-size or lower it"
        )
    windows = []
    for split, shards in (("training", parts.corpus.train), ("validation", parts.corpus.val)):
        try:
            windows.append(Windows(shards, s.block_size or largest, seed=s.seed))
        except ValueError as error:
            raise UserError(
                f"--input.{parts.job.entries['input'].name}: the {split} text is too short: {error}; "
                f"use more text or a smaller --block-size"
            ) from error
    return windows[0], windows[1]


def _fit(parts: Parts, trainer: Trainer, display: Display) -> int:
    """Run the loop; however it ends, run.json says so and every plugin is told."""
    recorder, status, cuda = trainer.recorder, "failed", trainer.device.type == "cuda"
    try:
        with trainer.signals:
            recorder.run.record(
                status="running",
                pid=os.getpid(),
                host=socket.gethostname(),
                parameters=_size(parts.model),
                vocab_size=parts.tokenizer.vocab_size,
                training_tokens=trainer.train.tokens,
                entropy_floor=display.floor,  # in nats per token
                processes=trainer.world.size,
                device=torch.cuda.get_device_name(trainer.device) if cuda else str(trainer.device),
                dtype=str(trainer.dtype).removeprefix("torch."),
                torch=torch.__version__,
                python=platform.python_version(),
            )
            try:
                recorder.notify("pealm_run_start")
                trainer.fit()
                status = "interrupted" if trainer.interrupted else "done"
            except KeyboardInterrupt:
                status = "interrupted"
                raise
            finally:
                seconds = round(trainer.seconds, 3)
                recorder.run.record(status=status, seconds=seconds, first_val_loss=trainer.first_val_loss)
    finally:
        recorder.notify("pealm_run_end", status=status)
    _summarize(trainer, display)
    return 128 + trainer.interrupted if trainer.interrupted else 0


def _size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _introduce(parts: Parts, trainer: Trainer, display: Display) -> None:
    entries, world = parts.job.entries, trainer.world
    processes = f", {world.size} processes" if world.size > 1 else ""
    display.say(f"model   {entries['model'].name}: {_size(parts.model):,} parameters on {trainer.device}{processes}")
    cached = ", tokens from the cache" if parts.corpus.cached else ""
    display.say(
        f"input   {entries['input'].name}: {trainer.train.tokens:,} training tokens, "
        f"vocabulary of {parts.tokenizer.vocab_size:,}{cached}"
    )
    if trainer.device.type == "cuda":
        display.say(f"speed   {describe(trainer.device, trainer.dtype, trainer.settings.without)}")
    display.say(f"run     {trainer.recorder.run.dir}")


def _summarize(trainer: Trainer, display: Display) -> None:
    folder = shlex.quote(str(trainer.recorder.run.dir))
    if trainer.val_loss is not None:
        best = min(trainer.best_loss, trainer.recorder.saver.best_on_disk)
        before = "" if trainer.first_val_loss is None else f"{trainer.first_val_loss:.4f} before, "
        display.say(
            f"validation loss {before}{trainer.val_loss:.4f} now, {best:.4f} at best "
            f"({trainer.step:,} steps, {trainer.seconds:.0f} s)"
        )
        if display.floor:
            ratio = best / display.floor
            display.say(
                f"entropy floor   {display.floor:.4f}: no model can do better; the best is {ratio:.3f} times it"
            )
    if trainer.interrupted:
        display.say(f"interrupted; resume with: pealm train --out {folder}")
    else:
        display.say(f"sample from it: pealm sample --ckpt {folder}")
