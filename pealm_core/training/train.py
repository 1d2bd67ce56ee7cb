"""`pealm train`, from a resolved job to the last line on the screen: data, model, run folder, loop, summary."""

import os
import platform
import shlex
import socket
from math import inf
from pathlib import Path

import torch

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.build_model import make_model
from pealm_core.checkpoints.build_tokenizer import make_datasets, make_tokenizer
from pealm_core.checkpoints.initial_weights import read_initial_weights
from pealm_core.config.resolve_job import Job
from pealm_core.config.settings import TrainSettings
from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import Tokenizer
from pealm_core.contract.training_protocols import Strategy
from pealm_core.data.sources import Data, sources
from pealm_core.hardware.device import pick_dtype
from pealm_core.hardware.distributed import World, processes
from pealm_core.hardware.faster_training import describe, use_eager_optimizers
from pealm_core.training.progress import Display
from pealm_core.training.resume import changed_settings, flat, new_rate, newest_checkpoint, restore
from pealm_core.training.run_folder import CONFIG, Run, new_folder, restarted_folder
from pealm_core.training.trainer import Trainer


def train(job: Job, out: Path | None) -> tuple[Path, int]:
    """Train in a new folder, or resume the run in `out`; return the folder and the exit code. Raises PealmError."""
    with processes(job.configs["train"].device) as (world, device):
        return _train(job, out, world, device, Display(quiet=not world.main))


def _train(job: Job, out: Path | None, world: World, device: torch.device, display: Display) -> tuple[Path, int]:
    name = job.entries["model"].name
    restarted = world.texts(str(restarted_folder(name) or ""))[0]
    folder = out or (Path(restarted) if restarted else None)
    old = folder if folder is not None and (folder / CONFIG).exists() else None  # the run to resume
    with world.together():
        if folder is not None and (folder / checkpoint.STATE).exists():
            raise UserError(f"--out {folder} is a checkpoint, not a run; --init {folder} starts from its weights")
        changes = changed_settings(old / CONFIG, job) if old else []
    newest = newest_checkpoint(old, world, display.say) if old else None
    job, tokenizer, data, model, strategy = _build(job, newest, world, display)
    with world.together():
        model = model if any(p.is_meta for p in model.parameters()) else model.to(device)
        objective, schedule = job.make("objective", model, tokenizer), job.make("schedule")
        module = strategy.wrap(model)
        if device.type != "cuda":  # where nothing is compiled
            use_eager_optimizers()
        optimizer = job.make("optimizer", model, lr=job.configs["train"].lr)
    with world.together():
        folder = folder or (new_folder(name) if world.main else Path())
    folder = Path(world.texts(str(folder))[0])
    with world.together():
        run = Run(folder, job.tables(), rank=world.rank, resuming=old is not None)
        dtype = pick_dtype(job.configs["train"].dtype, device)
        parts = (job, run, model, module, optimizer, tokenizer, data, objective, schedule, strategy)
        trainer = Trainer(*parts, world, device, dtype, display)
    try:
        with world.together():
            if old:
                restore(trainer, newest)
        if trainer.progress() >= 1.0:
            s: TrainSettings = trainer.job.configs["train"]
            option = "--max-seconds" if s.max_seconds else "--epochs" if s.epochs else "--steps"
            display.say(f"{run.dir} is finished: {trainer.step:,} steps. A larger {option} resumes it.")
            return folder, 0
        if changes:
            display.say(f"changed settings: {', '.join(changes)}{new_rate(trainer, changes)}")
        with world.together():
            run.keep_config()
        _introduce(trainer)
        return folder, _fit(trainer)
    finally:
        display.clear()
        run.close()


def _build(
    job: Job, newest: Path | None, world: World, display: Display
) -> tuple[Job, Tokenizer, Data, torch.nn.Module, Strategy]:
    """Build the parts; a resumed run takes its checkpoint's tokenizer. The job gets vocab_size."""
    s: TrainSettings = job.configs["train"]
    with world.one_by_one():  # the first process of a machine fills the caches for its others
        job.entries["model"].load("factory")  # a misspelt one is reported before a long tokenization
        datasets = make_datasets(job)
        weights = None
        if s.init and newest is None:
            job, weights = read_initial_weights(job, s.init, say=display.say)
        tokenizer = make_tokenizer(job, newest and newest / checkpoint.TOKENIZER, *datasets.values())
        largest = job.configs["model"].block_size
        if s.block_size is not None and s.block_size > largest:
            raise UserError(
                f"--block-size {s.block_size} is above the model's {largest}; raise --model.block-size or lower it"
            )
        data = sources(job, datasets, tokenizer, s.block_size or largest, s.seed, say=display.say)
        if s.sample_every:
            try:
                tokenizer.encode(s.sample_prompt)
            except ValueError as error:
                raise UserError(f"--sample-prompt: {error}") from error
        torch.manual_seed(s.seed)
        strategy = job.make("strategy")
        model, job = make_model(job, tokenizer.vocab_size, weights, strategy, say=display.say)
    facts = {f"[{table}] {key}": value for (table, key), value in flat(job.tables()).items()}
    world.agree({**facts, "torch": torch.__version__, "the tokens": data.key})
    display.floor = data.entropy_floor if job.entries["objective"].name == "next-token" else None
    return job, tokenizer, data, model, strategy


def _fit(trainer: Trainer) -> int:
    """Run the loop; however it ends, run.json says so and every plugin is told."""
    run, observers, status, cuda = trainer.run, trainer.observers, "failed", trainer.device.type == "cuda"
    try:
        with trainer.signals:
            run.record(
                status="running",
                pid=os.getpid(),
                host=socket.gethostname(),
                parameters=_size(trainer.model),
                vocab_size=trainer.tokenizer.vocab_size,
                training_tokens=trainer.data.train.tokens,
                entropy_floor=trainer.display.floor,  # in nats per token
                processes=trainer.world.size,
                device=torch.cuda.get_device_name(trainer.device) if cuda else str(trainer.device),
                dtype=str(trainer.dtype).removeprefix("torch."),
                torch=torch.__version__,
                python=platform.python_version(),
            )
            try:
                with trainer.world.together():
                    observers.call("pealm_run_start")
                if lost := observers.unclaimed():
                    trainer.display.say(f"no plugin asks for the saved state of {', '.join(lost)}; it is dropped")
                trainer.fit()
                status = "interrupted" if trainer.interrupted else "done"
            except KeyboardInterrupt:
                status = "interrupted"
                raise
            finally:
                seconds, first = round(trainer.seconds, 3), trainer.first_val_loss
                drawn = trainer.data.drawn(trainer.sample)  # samples of each input
                run.record(status=status, seconds=seconds, first_val_loss=first, drawn=drawn)
    finally:
        observers.call("pealm_run_end", status=status)
    _summarize(trainer)
    return 128 + trainer.interrupted if trainer.interrupted else 0


def _size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _introduce(t: Trainer) -> None:
    say, processes = t.display.say, f", {t.world.size} processes" if t.world.size > 1 else ""
    say(f"model   {t.job.entries['model'].name}: {_size(t.model):,} parameters on {t.device}{processes}")
    cached = ", tokens from the cache" if t.data.cached else ""
    tokens = f"{t.data.train.tokens:,} training tokens, vocabulary of {t.tokenizer.vocab_size:,}{cached}"
    say(f"input   {t.data.name}: {tokens}")
    if t.device.type == "cuda":
        say(f"speed   {describe(t.device, t.dtype, t.settings.without)}")
    say(f"run     {t.run.dir}")


def _summarize(t: Trainer) -> None:
    say, folder, best = t.display.say, shlex.quote(str(t.run.dir)), min(t.best_loss, t.saver.best_on_disk)
    if t.val_loss is not None and best < inf:  # not if only the first validation was reached
        before = "" if t.first_val_loss is None else f"{t.first_val_loss:.4f} before, "
        took = f"({t.step:,} steps, {t.seconds:.0f} s)"
        say(f"validation loss {before}{t.val_loss:.4f} now, {best:.4f} at best {took}")
        if floor := t.display.floor:
            say(f"entropy floor   {floor:.4f}: no model can do better; rows that start inside a document are harder")
    if t.stopped:
        say(f"stopped after step {t.step:,}: {t.stopped}")
    pealm = " ".join(["pealm", *(f"--plugin {shlex.quote(file)}" for file in t.job.files)])
    if t.interrupted:
        say(f"interrupted; resume with: {pealm} train --out {folder}")
    else:
        say(f"sample from it: {pealm} sample --ckpt {folder}")
