"""Resume a run: check that the settings are the same, find the newest valid checkpoint, restore it."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.tensors import check_tensors, read_tensors, read_tree
from pealm_core.config.choose_components import COMPONENTS
from pealm_core.config.resolve_job import Job
from pealm_core.config.settings import RESUMABLE
from pealm_core.config.toml_layers import file_layer, option_name, read_regular
from pealm_core.contract.errors import InvalidCheckpointError, UserError
from pealm_core.contract.fields import settings_of
from pealm_core.contract.protocols import has
from pealm_core.hardware.distributed import World
from pealm_core.training.learning_rate import lr_factor
from pealm_core.training.run_folder import FACTS
from pealm_core.training.saving import STATE
from pealm_core.training.trainer import Trainer

COMPARED = {*COMPONENTS, "train"} - {"observer"}  # tables
FREE = (("model", "vocab-size"), ("adapter", "base"))  # the tokenizer's; where the base with the same hash is
OF_RATE = ("--steps", "--max-seconds", "--epochs", "--lr", "--warmup-steps", "--schedule")  # decide the learning rate


def flat(tables: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Return the values of a config by table and key; the inputs of a mixture are one value."""
    one = {table: {table: values} if isinstance(values, list) else values for table, values in tables.items()}
    return {(table, key): value for table, values in one.items() for key, value in values.items()}


def changed_settings(config: Path, job: Job) -> list[str]:
    """Return how the job's settings differ from a run's config.toml. Raises UserError if others than these may."""
    saved, tables, changes = file_layer(config).tables, job.tables(), []
    old, new = flat(saved), flat(tables)
    for table, key in sorted(old.keys() | new.keys(), key=lambda place: (place[1] != "name", place)):
        if table not in tables or table not in COMPARED or (table, key) in FREE:
            continue
        before, after = old.get((table, key)), new.get((table, key))
        kind: Any = job.configs.get(table) and type(job.configs[table])
        setting = settings_of(kind).get(key)
        if (table, key) not in old and setting is not None and after == setting.default:
            continue  # it came with a newer version
        if key == "name" and job.entries[table].plugin.dist in saved.get("versions", {}):
            before, after = (str(name).rpartition("/")[2] for name in (before, after))  # of `dist/name`
        if before == after:
            continue
        if not (table in ("schedule", "strategy") or (table == "train" and key.replace("-", "_") in RESUMABLE)):
            raise UserError(
                f"{config.parent} was started with [{table}] {key} = {before!r}, not {after!r}; "
                f"resume with the same value, or start a new run with another --out"
            )
        changes.append(f"{option_name(table, key)} {before} → {after}")
    return changes


def newest_checkpoint(run: Path, world: World, say: Callable[[str], None]) -> Path | None:
    """Return a run's newest valid step checkpoint as rank 0 sees it, and say what is wrong with newer ones.

    Raises UserError if the run has only its best weights left to start from, or another rank lacks the folder.
    """
    newest, wrong = checkpoint.newest(run) if world.main else (None, [])
    for line in wrong:
        say(f"skipped: {line}")
    name = world.texts(newest.name if newest else "")[0]
    folder = run / "checkpoints" / name if name else None
    with world.together():
        if world.main and not folder and not wrong and _had_checkpoints(run):
            raise UserError(
                f"{run} has no step checkpoint to resume from, only best/; start a new run from its weights: "
                f"--init {run} --out ANOTHER"
            )
        if folder and not (folder / checkpoint.STATE).is_file():
            raise UserError(
                f"{folder} exists on rank 0 but not on rank {world.rank}; to resume, all nodes must share the folder"
            )
    return folder


def _had_checkpoints(run: Path) -> bool:
    """Return whether a run without step checkpoints had some, which `pealm clean --keep-best` removed."""
    if not (run / "best" / checkpoint.STATE).is_file():
        return False
    with suppress(OSError, ValueError, TypeError, AttributeError):
        facts = json.loads(read_regular(run / FACTS))
        return bool(facts.get("cleaned")) or facts.get("status") in ("done", "interrupted", "pruned")
    return False


def restore(t: Trainer, newest: Path | None) -> None:
    """Load a run's newest valid checkpoint into the trainer; without one, the run starts again from step 0."""
    run = t.run
    state = checkpoint.state_of(newest) if newest else {}
    if newest and not (isinstance(state.get("step"), int) and isinstance(state.get("seconds"), int | float)):
        raise InvalidCheckpointError(f"{newest / checkpoint.STATE} has no step and seconds of a run; remove {newest}")
    if newest and state["data"] != t.data.key:
        raise UserError(f"{run.dir}: the input's text or tokenizer has changed since the run was started")
    run.rewind(state.get("step", -1))
    best = None  # the loss of the weights in best/
    if t.world.main:
        checkpoint.set_aside(run.dir, newest)
        with suppress(InvalidCheckpointError):
            best = checkpoint.verify(run.dir / "best")["best_loss"]
    t.saver.best_on_disk = t.world.gather(best or math.inf)[0][0]
    if newest is None:
        t.display.say(f"{run.dir} has no valid checkpoint yet: starting from step 0")
        return
    settings = [{k: v for k, v in group.items() if k != "params"} for group in t.optimizer.param_groups]
    try:
        if (shards := newest / checkpoint.SHARDS).is_dir():
            if not has(t.strategy, "load_shards"):
                raise UserError(f"{newest} is sharded; resume with the --strategy that wrote it, such as fsdp")
            t.strategy.load_shards(shards, t.model, t.optimizer)  # type: ignore[attr-defined]
        else:
            weights, _ = read_tensors(newest / checkpoint.MODEL)
            check_tensors(t.model, weights, str(newest / checkpoint.MODEL))
            optimizer = read_tree(newest / checkpoint.OPTIMIZER)
            t.strategy.load_state(t.model, t.optimizer, weights, optimizer)
        for group, new in zip(t.optimizer.param_groups, settings, strict=True):
            group.pop("initial_lr", None)
            group.update(new)
    except ValueError as error:
        raise UserError(
            f"{newest}: the optimizer of this version does not fit ({error}); start a new run, which may use its "
            f"weights: --init {run.dir}"
        ) from None
    for name in STATE:
        setattr(t, name, state.get(name, getattr(t, name)))  # an older version had fewer
    if state["best_loss"] is not None and math.isfinite(t.saver.best_on_disk):
        t.best_loss = state["best_loss"]
    if isinstance(scaler := state.get("scaler"), dict) and scaler.keys() == t.scaler.state_dict().keys():
        t.scaler.load_state_dict(scaler)
    extra = newest / checkpoint.EXTRA
    t.observers.saved = read_tree(extra) if extra.exists() else {}
    t.display.say(f"resuming from {newest}")


def new_rate(t: Trainer, changes: Sequence[str]) -> str:
    """Return how the next learning rate differs from the last step's, if a setting that decides it has changed."""
    rate = t.settings.lr * lr_factor(t.schedule, t.progress(), t.step, t.settings)
    if not t.lr or rate == t.lr or not any(change.startswith(OF_RATE) for change in changes):
        return ""
    stay = f" (to stay there: --schedule constant --lr {t.lr:.2g})" if t.lr < rate else ""
    return f"; learning rate {t.lr:.2g} → {rate:.2g} from step {t.step + 1:,}{stay}"
