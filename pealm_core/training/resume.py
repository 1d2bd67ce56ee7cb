"""Resume a run: check that the settings are the same, find the newest valid checkpoint, restore it."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.tensors import check_tensors, read_tensors, read_tree
from pealm_core.config.choose_components import COMPONENTS
from pealm_core.config.job import Job, plan
from pealm_core.config.settings import RESUMABLE, TrainSettings
from pealm_core.config.toml_layers import file_layer, option_name, read_regular
from pealm_core.contract.errors import InvalidCheckpointError, PealmError, UserError
from pealm_core.hardware.distributed import World
from pealm_core.training.learning_rate import Budget, in_steps, lr_factor
from pealm_core.training.run_folder import FACTS
from pealm_core.training.trainer import Trainer

FREE = (("model", "vocab-size"), ("adapter", "base"))  # the tokenizer's; where the base with the same hash is


def changed_settings(config: Path, job: Job) -> list[str]:
    """Return how the job's settings differ from a run's config.toml. Raises UserError if others than these may."""
    saved, changes = file_layer(config).tables, []
    tables = job.tables()
    for table in (table for table in tables if table in {*COMPONENTS, "train"} - {"observer"}):
        pair: list[Any] = [saved.get(table, {}), tables.get(table, {})]
        if any(isinstance(values, list) for values in pair):  # a mixture
            pair = [{"input": values} for values in pair]
        old, new = pair
        settings = job.configs.get(table)
        defaults = {f.name.replace("_", "-"): f.default for f in fields(settings)} if settings else {}
        for key in sorted(old.keys() | new.keys(), key=lambda key: (key != "name", key)):
            if (table, key) in FREE:
                continue
            if key not in old and new[key] == defaults.get(key):
                continue  # a setting that came with a newer version
            entry = job.entries.get(table)
            if key == "name" and entry and entry.plugin.dist in saved.get("versions", {}):
                old, new = ({**values, key: values.get(key, "").rpartition("/")[2]} for values in (old, new))
            if old.get(key) == new.get(key):
                continue
            if table in ("schedule", "strategy") or (table == "train" and key.replace("-", "_") in RESUMABLE):
                changes.append(f"{option_name(table, key)} {old.get(key)} → {new.get(key)}")
            else:
                raise UserError(
                    f"{config.parent} was started with [{table}] {key} = {old.get(key)!r}, not {new.get(key)!r}; "
                    f"resume with the same value, or start a new run with another --out"
                )
    return changes


def newest_checkpoint(run: Path, world: World) -> tuple[Path | None, list[str]]:
    """Return a run's newest valid step checkpoint as rank 0 sees it, and what is wrong with newer ones.

    Raises UserError if the run has only its best weights left to start from, or another rank lacks the folder.
    """
    newest, wrong = checkpoint.newest(run) if world.main else (None, [])
    name, *wrong = json.loads(world.texts(json.dumps([newest and newest.name, *wrong]))[0])
    with world.together():
        if name is None:
            if world.main and not wrong and _had_checkpoints(run):
                raise UserError(
                    f"{run} has no step checkpoint to resume from, only best/; start a new run from its weights: "
                    f"--init {run} --out ANOTHER"
                )
            return None, wrong
        folder = run / "checkpoints" / name
        if not (folder / checkpoint.STATE).is_file():
            raise UserError(
                f"{folder} exists on rank 0 but not on rank {world.rank}; to resume, all nodes must share the folder"
            )
    return folder, wrong


def _had_checkpoints(run: Path) -> bool:
    """Return whether a run without step checkpoints had some, which `pealm clean --keep-best` removed."""
    if not (run / "best" / checkpoint.STATE).is_file():
        return False
    with suppress(OSError, ValueError, TypeError, AttributeError):
        facts = json.loads(read_regular(run / FACTS))
        return bool(facts.get("cleaned")) or facts.get("status") in ("done", "interrupted")
    return False


def restore(trainer: Trainer, newest: Path | None, wrong: Sequence[str]) -> None:
    """Load a run's newest valid checkpoint into the trainer; without one, the run starts again from step 0.

    wrong: what to say of newer checkpoints.
    """
    run, display = trainer.run, trainer.display
    for line in wrong:
        display.say(f"skipped: {line}")
    state = checkpoint.state_of(newest) if newest else None
    sound = state is None or (isinstance(state.get("step"), int) and isinstance(state.get("seconds"), int | float))
    if newest and not sound:
        raise InvalidCheckpointError(f"{newest / checkpoint.STATE} has no step and seconds of a run; remove {newest}")
    if state is not None and state["data"] != trainer.data.key:
        raise UserError(f"{run.dir}: the input's text or tokenizer has changed since the run was started")
    run.rewind(state["step"] if state else -1)
    if trainer.world.main:
        checkpoint.set_aside(run.dir, newest)
    on_disk = math.inf  # the loss of the weights in best/
    with suppress(InvalidCheckpointError):
        on_disk = (checkpoint.verify(run.dir / "best")["best_loss"] if trainer.world.main else None) or math.inf
    trainer.saver.best_on_disk = on_disk = trainer.world.gather(on_disk)[0][0]
    if newest is None or state is None:
        display.say(f"{run.dir} has no valid checkpoint yet: starting from step 0")
        return
    groups = [{k: v for k, v in group.items() if k != "params"} for group in trainer.optimizer.param_groups]
    try:
        weights, _ = read_tensors(newest / checkpoint.MODEL)
        check_tensors(trainer.model, weights, str(newest / checkpoint.MODEL))
        optimizer = read_tree(newest / checkpoint.OPTIMIZER)
        trainer.strategy.load_state(trainer.model, trainer.optimizer, weights, optimizer)
        for group, settings in zip(trainer.optimizer.param_groups, groups, strict=True):
            group.pop("initial_lr", None)
            group.update(settings)
    except ValueError as error:
        raise UserError(
            f"{newest}: the optimizer of this version does not fit ({error}); start a new run, which may use its "
            f"weights: --init {run.dir}"
        ) from None
    trainer.step, trainer.seconds = state["step"], state["seconds"]
    trainer.sample = state["sample"]
    if isinstance(scaler := state.get("scaler"), dict) and scaler.keys() == trainer.scaler.state_dict().keys():
        trainer.scaler.load_state_dict(scaler)
    extra = newest / checkpoint.EXTRA
    trainer.observers.saved = read_tree(extra) if extra.exists() else {}
    if state["best_loss"] is not None and math.isfinite(on_disk):
        trainer.best_loss = state["best_loss"]
    trainer.val_loss, trainer.first_val_loss = state["val_loss"], state["first_val_loss"]
    trainer.eval_seconds = state.get("eval_seconds", 0.0)
    display.say(f"resuming from {newest}{_new_rate(run.dir / checkpoint.CONFIG, trainer)}")


def _new_rate(config: Path, trainer: Trainer) -> str:
    """Return how the next learning rate differs from the one that the run's saved settings give.

    If the run was finished, it is the difference from the last step's.
    """
    rates = []
    with suppress(PealmError):  # settings of another version
        saved = plan(("model", "schedule"), flat={"train": TrainSettings}, file=file_layer(config))
        for job, schedule in ((saved, saved.make("schedule")), (trainer.job, trainer.schedule)):
            s = in_steps(job.configs["train"], len(trainer.data.train))
            progress = Budget(s).progress(trainer.step, trainer.seconds, trainer.eval_seconds)
            step = trainer.step - 1 if progress == 1.0 else trainer.step
            rates.append(s.lr * lr_factor(schedule, progress, step, s))
    if len(set(rates)) < 2:
        return ""
    stay = f" (to stay there: --schedule constant --lr {rates[0]:.2g})" if 0 < rates[0] < rates[1] else ""
    return f"; learning rate {rates[0]:.2g} → {rates[1]:.2g} from step {trainer.step + 1:,}{stay}"
