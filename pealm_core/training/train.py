"""A training run from a resolved job to the last line on the screen: data, model, run folder, loop, summary."""

import json
import math
import platform
import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.build import make, make_component, make_model, make_tokenizer
from pealm_core.checkpoints.initial_weights import read_initial_weights
from pealm_core.checkpoints.tensors import Snapshot, read_optimizer
from pealm_core.config.job import Job
from pealm_core.config.settings import RESUMABLE, TrainSettings
from pealm_core.contract.errors import PealmError, UserError
from pealm_core.contract.fields import dump
from pealm_core.contract.protocols import Dataset, Tokenizer, has
from pealm_core.data.token_cache import Corpus, fingerprint, open_shards, tokenize
from pealm_core.data.windows import Windows
from pealm_core.hardware.device import pick_device, pick_dtype
from pealm_core.hardware.distributed import World, join, leave, one_by_one, peers, this_process
from pealm_core.hardware.speed import describe
from pealm_core.inference.lm import LM
from pealm_core.training.progress import Display
from pealm_core.training.run import CONFIG, SAMPLES, Run, new_folder, restarted_folder
from pealm_core.training.trainer import Trainer, due

SAMPLE_TOKENS = 200  # in a text of --sample-every


def run_training(job: Job, out: Path | None) -> int:
    """Train, in a new folder or on from what `out` holds; gives the exit code. Raises PealmError."""
    world = this_process()
    s: TrainSettings = job.configs["train"]
    device = pick_device(s.device, world.local_rank)
    join(world, device)
    with peers(world):
        code = _run(job, out, world, device)
    leave()
    return code


def _run(job: Job, out: Path | None, world: World, device: torch.device) -> int:
    s: TrainSettings = job.configs["train"]
    dtype = pick_dtype(s.dtype, device)
    name = job.entries["model"].name
    restarted = world.texts(str(restarted_folder(name) or ""))[0]
    folder = out or (Path(restarted) if restarted else None)
    with Display(quiet=not world.main) as display:
        with world.together():
            begun = folder if folder is not None and (folder / CONFIG).exists() else None  # the run to go on with
            if begun:
                _check_same(begun / CONFIG, job)
            job.entries["model"].load("factory")  # a misspelt one is told before a long tokenization
            dataset: Dataset = make_component(job, "input")
        newest, wrong = _newest(begun, world) if begun else (None, [])
        with one_by_one(world):  # the first process of a machine fills the caches for its others
            start = read_initial_weights(job, s.init) if s.init and newest is None else None
            saved = newest / checkpoint.TOKENIZER if newest else start.tokenizer if start else None
            tokenizer = make_tokenizer(job, saved, dataset)
            corpus = _corpus(job, dataset, tokenizer, display)
            torch.manual_seed(s.seed)
            model, job = make_model(job, tokenizer.vocab_size, start)
        facts = {**_flat(job.tables()), "torch": torch.__version__, "the tokens": corpus.key}
        with world.together():
            world.agree(facts)
        with world.together():
            train, val = _windows(job, s, corpus, model)
            _check_prompt(s, tokenizer)
            lr: dict[str, Any] = {"lr": s.lr}
            config = job.configs["optimizer"]
            model = model.to(device)
            optimizer = make(job.entries["optimizer"], *([] if config is None else [config]), model, **lr)
        new = ""
        with world.together():
            if folder is None and world.main:
                new = str(new_folder(name))
        folder = folder or Path(world.texts(new)[0])
        with world.together():
            run = Run(folder, job.tables(), rank=world.rank, resuming=begun is not None)
            reporter = Reporter(run, job, tokenizer, corpus, display)
            trainer = Trainer(model, optimizer, train, val, s, world, device, dtype, reporter)
        floor = getattr(dataset, "entropy_floor", None)
        display.floor = floor * corpus.characters_per_token if floor and corpus.characters_per_token else None
        try:
            with world.together():
                if begun:
                    _resume(run, trainer, corpus, display, newest, wrong)
                    reporter.best_on_disk = trainer.best_loss
            if trainer.progress() >= 1.0:
                more = "--max-seconds" if s.max_seconds else "--steps"
                display.say(f"{run.dir} is finished: {trainer.step:,} steps. A larger {more} goes on from there.")
                return 0
            with world.together():
                run.keep_config()
            _introduce(job, trainer, run, tokenizer, corpus, display)
            run.record(status="running", **_facts(trainer, tokenizer, display.floor))
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
        run.record(status=status, seconds=round(trainer.seconds, 3), first_val_loss=trainer.first_val_loss)
        job.host.notify("pealm_run_end", run=run, status=status)
    _summarize(run, trainer, display)
    return 128 + trainer.interrupted if trainer.interrupted else 0


class Reporter:
    """Carries what the loop tells to metrics.jsonl, the screen, the plugins and the disk."""

    def __init__(self, run: Run, job: Job, tokenizer: Tokenizer, corpus: Corpus, display: Display) -> None:
        self.run, self.job, self.tokenizer, self.corpus, self.display = run, job, tokenizer, corpus, display
        self.writer = checkpoint.Writer()
        self._memory = Snapshot()
        self._written: list[Path] = []  # what the writer is at
        self._best: float | None = None  # the loss of the weights that it writes to best/
        self._best_written = False
        self.best_on_disk = math.inf

    def step(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        """Write the step's line and show it."""
        self.run.log(metrics)
        self.display.step(metrics, trainer.progress())
        self.job.host.notify("pealm_step_end", run=self.run, step=trainer.step, metrics=metrics)
        if due(trainer.step, trainer.settings.sample_every) and trainer.world.main:
            self.run.log({"step": trainer.step, "tokens": metrics["tokens"], **self._sample(trainer)}, SAMPLES)
        if self._written and not trainer.world.gather(self.writer.busy)[0][0]:
            self._settle(trainer)

    def _sample(self, trainer: Trainer) -> dict[str, str]:
        """What the model writes now, with the same draws every time. Each step seeds its own, so no step sees it."""
        s = trainer.settings
        cuda = trainer.device.type == "cuda"  # compiled for one shape; here each token has another
        with torch.compiler.set_stance("force_eager") if cuda else nullcontext():
            lm = LM(trainer.model, self.tokenizer, {})
            (sample,) = lm.samples([s.sample_prompt], max_new_tokens=SAMPLE_TOKENS, seed=s.seed)
        return {"prompt": s.sample_prompt, "text": sample.text}

    def save(self, trainer: Trainer, *, full: bool, best: bool) -> None:
        """`checkpoints/step-00000500` and `best`: only the copying is waited for; the steps go on meanwhile."""
        self._settle(trainer)
        self.run.check()
        step = self.run.dir / "checkpoints" / f"step-{trainer.step:08d}"
        self._written = [self.run.dir / "best"] * best + [step] * full
        self._best, self._best_written = trainer.best_loss if best else None, False
        if not trainer.world.main:
            return
        model = self._memory.take(trainer.model.state_dict(), "model")
        optimizer = self._memory.take(trainer.optimizer.state_dict(), "optimizer") if full else None
        state = {
            "step": trainer.step,
            "seconds": trainer.seconds,
            "val_loss": trainer.val_loss,
            "best_loss": trainer.best_loss if math.isfinite(trainer.best_loss) else None,
            "first_val_loss": trainer.first_val_loss,
            "eval_seconds": trainer.eval_seconds,
            "world_size": trainer.world.size,
            "data": self.corpus.key,
        }

        def write() -> None:
            self.run.sync()
            for folder in (self.run.dir / "best",) * best + (step,) * full:
                checkpoint.save(
                    folder,
                    model=model,
                    optimizer=optimizer if folder == step else None,
                    config=self.run.config,
                    tokenizer=self.tokenizer,
                    state=state,
                    replace=True,
                )
                self._best_written |= folder.name == "best"
            checkpoint.prune(self.run.dir, trainer.settings.keep)

        self.writer.start(write)

    def finish(self, trainer: Trainer, *, failed: bool) -> None:
        """Wait for the last save. Raises PealmError where it failed; not where the training has failed already."""
        if failed:
            self.writer.join()
            return
        with trainer.world.together():
            if error := self._settle(trainer, last=True):
                raise error

    def _settle(self, trainer: Trainer, *, last: bool = False) -> PealmError | None:
        """Wait for the writer and tell the plugins what is on disk; gives what went wrong."""
        if not self._written:
            return None
        error, written = self.writer.join(), self._written
        self._written = []
        failed, best_written = map(bool, trainer.world.gather(error is not None, self._best_written)[0])
        if self._best is not None and best_written:
            self.best_on_disk = self._best
        elif trainer.best_loss == self._best:
            trainer.best_loss = self.best_on_disk  # what beats the weights that are there is saved
        if error is not None and not last:
            self.display.say(f"{error}; training goes on, and the next save tries again")
        for folder in written:
            if not failed or (best_written and folder.name == "best"):
                self.job.host.notify("pealm_checkpoint_saved", run=self.run, path=folder)
        return error


def _newest(run: Path, world: World) -> tuple[Path | None, list[str]]:
    """The newest valid checkpoint of a run as rank 0 finds it, and what is wrong with newer ones."""
    newest, wrong = checkpoint.newest(run) if world.main else (None, [])
    name, *wrong = json.loads(world.texts(json.dumps([newest and newest.name, *wrong]))[0])
    if name is None:
        return None, wrong
    folder = run / "checkpoints" / name
    if not (folder / checkpoint.STATE).is_file():
        raise UserError(
            f"{folder} is there on rank 0 and not on rank {world.rank}; to go on, all nodes must share the folder"
        )
    return folder, wrong


def _corpus(job: Job, dataset: Dataset, tokenizer: Tokenizer, display: Display) -> Corpus:
    if has(dataset, "shards"):
        corpus = open_shards(dataset, tokenizer.vocab_size)
    else:
        entry = job.entries["tokenizer"]
        mark = fingerprint(entry.spec.name, dump(job.configs["tokenizer"]), tokenizer)
        corpus = tokenize(dataset, tokenizer, mark, say=display.say)
    name = job.entries["input"].name
    for split, shards in (("training", corpus.train), ("validation", corpus.val)):
        if not shards:
            raise UserError(f"--input.{name} has no {split} text")
    return corpus


def _windows(job: Job, s: TrainSettings, corpus: Corpus, model: Any) -> tuple[Windows, Windows]:
    largest = model.config.block_size
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


def _check_prompt(s: TrainSettings, tokenizer: Tokenizer) -> None:
    """Raise UserError before the first step where the tokenizer can't express what the samples go on from."""
    if not s.sample_every:
        return
    try:
        tokenizer.encode(s.sample_prompt)
    except ValueError as error:
        raise UserError(f"--sample-prompt: {error}") from error


def _check_same(path: Path, job: Job) -> None:
    """Raise UserError where the job differs from the run's config in more than a run may change."""
    from pealm_core.config.layers import read_toml

    there, _ = read_toml(path)
    here = job.tables()
    for table in (table for table in ("model", "tokenizer", "optimizer", "input", "train") if table in here):
        old, new = there.get(table, {}), here[table]
        config = job.configs[table]
        defaults = {f.name.replace("_", "-"): f.default for f in fields(config)} if config else {}
        for key in sorted(old.keys() | new.keys(), key=lambda key: (key != "name", key)):
            if (table == "train" and key.replace("-", "_") in RESUMABLE) or (table, key) == ("model", "vocab-size"):
                continue
            if key not in old and new[key] == defaults.get(key):
                continue  # a setting that came with a newer version
            if key == "name" and job.entries[table].plugin.dist in there.get("versions", {}):
                old, new = ({**values, key: values.get(key, "").rpartition("/")[2]} for values in (old, new))
            if old.get(key) != new.get(key):
                raise UserError(
                    f"{path.parent} was begun with [{table}] {key} = {old.get(key)!r}, not {new.get(key)!r}; "
                    f"go on with the same value, or start a new run with another --out"
                )


def _resume(
    run: Run, trainer: Trainer, corpus: Corpus, display: Display, newest: Path | None, wrong: Sequence[str]
) -> None:
    """Put the newest valid checkpoint into the trainer; from the start where there is none."""
    for line in wrong:
        display.say(f"skipped: {line}")
    state = checkpoint.state_of(newest) if newest else None
    if state is not None and state["data"] != corpus.key:
        raise UserError(f"{run.dir}: the input's text or tokenizer has changed since the run began")
    run.rewind(state["step"] if state else 0)
    if trainer.world.main:
        checkpoint.set_aside(run.dir, newest)
    if newest is None or state is None:
        display.say(f"{run.dir} has no valid checkpoint yet: starting from step 0")
        return
    checkpoint.load_model(trainer.model, newest)
    try:
        trainer.optimizer.load_state_dict(read_optimizer(newest / checkpoint.OPTIMIZER))
    except ValueError as error:
        raise UserError(
            f"{newest}: the optimizer of this version does not fit ({error}); begin a new run, which may start from "
            f"its weights: --init {run.dir}"
        ) from None
    trainer.step, trainer.seconds = state["step"], state["seconds"]
    trainer.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
    trainer.val_loss, trainer.first_val_loss = state["val_loss"], state["first_val_loss"]
    trainer.eval_seconds = state.get("eval_seconds", 0.0)
    display.say(f"going on from {newest}")


def _flat(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"[{table}] {key}": value for table, values in tables.items() for key, value in values.items()}


def _facts(trainer: Trainer, tokenizer: Tokenizer, floor: float | None) -> dict[str, Any]:
    """What run.json tells: sizes, the entropy floor in nats per token, and what it was computed on."""
    cuda = trainer.device.type == "cuda"
    return {
        "parameters": _size(trainer),
        "vocab_size": tokenizer.vocab_size,
        "training_tokens": trainer.train.tokens,
        "entropy_floor": floor,
        "processes": trainer.world.size,
        "device": torch.cuda.get_device_name(trainer.device) if cuda else str(trainer.device),
        "dtype": str(trainer.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _size(trainer: Trainer) -> int:
    return sum(p.numel() for p in trainer.model.parameters())


def _introduce(job: Job, trainer: Trainer, run: Run, tokenizer: Tokenizer, corpus: Corpus, display: Display) -> None:
    size, world = _size(trainer), trainer.world
    processes = f", {world.size} processes" if world.size > 1 else ""
    display.say(f"model   {job.entries['model'].name}: {size:,} parameters on {trainer.device}{processes}")
    known = ", tokens from the cache" if corpus.cached else ""
    display.say(
        f"input   {job.entries['input'].name}: {trainer.train.tokens:,} training tokens, "
        f"vocabulary of {tokenizer.vocab_size:,}{known}"
    )
    if trainer.device.type == "cuda":
        display.say(f"speed   {describe(trainer.device, trainer.dtype, trainer.settings.without)}")
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
