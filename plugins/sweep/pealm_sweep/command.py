"""`pealm sweep`."""

import os
import random
import shlex
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from pealm_core import PealmError, UserError
from pealm_sweep.plan import Plan, Value, read

POLL = 0.2  # seconds between two looks at the trials
CHECKED, ATTEMPTS = 100, 8  # values of an option that are checked before the first trial, and with how many others
HOPELESS = 3  # failed trials in a study without any other, after which it ends


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="The study's folder (default: runs/FILE)."
)
@click.option(
    "--jobs", type=click.IntRange(1, 1000), default=1, show_default=True, help="Trials to run at the same time."
)
@click.pass_context
def sweep(ctx: click.Context, file: Path, out: Path | None, jobs: int) -> None:
    """Search the settings in FILE for the lowest validation loss: one run of `pealm train` for each trial.

    FILE is a config of `pealm train` with the options to vary:

    \b
    [model]
    name = "sprout"
    [input]
    text = "book.txt"
    [sweep]
    sampler = "tpe"                # or random, grid
    trials = 20
    [sweep.options]
    lr = {low = 0.001, high = 0.1, log = true}
    model.n-embd = [64, 128]

    The same command resumes a study, and joins it from another machine that sees the folder.
    """
    plan = read(file)
    folder = out or Path("runs") / file.stem
    train = _Train(ctx, plan, folder)
    train.check(file)
    try:
        from pealm_sweep.study import Study
    except ModuleNotFoundError as error:
        if error.name != "fcntl":
            raise
        raise UserError("pealm sweep needs POSIX file locks, which this system does not have") from error

    try:
        study = Study(plan, folder)
        train.write_base()
    except OSError as error:
        raise UserError(f"{folder}: the study's folder can't be written: {error.strerror}") from None
    with _signals() as signals, closing(study):
        _work(study, train, jobs, signals)
    if signals:
        click.echo(f"interrupted; resume with: pealm sweep {shlex.quote(str(file))} --out {shlex.quote(str(folder))}")
        ctx.exit(128 + signals[0])
    from pealm_sweep.page import table

    click.echo(table(study))
    best = study.best()
    if best is None:
        raise PealmError(f"no trial of {folder} was completed; their output is in {folder}/trial-*.log")
    click.echo(f"best: {best.user_attrs['run']}, validation loss {best.value:.4f}")
    click.echo(f"its config: {folder / 'best.toml'}; charts: {folder / 'study.html'}")


class _Train:
    """The command lines of the trials."""

    def __init__(self, ctx: click.Context, plan: Plan, folder: Path) -> None:
        self.ctx, self.plan, self.base = ctx, plan, folder / "base.toml"

    def words(self, values: Mapping[str, Value]) -> list[str]:
        """Return the words after `pealm train`, without --out."""
        return ["--config", str(self.base), *self.plan.words(values)]

    def write_base(self) -> None:
        """Write the config that all trials have, at once or not at all."""
        aside = self.base.with_name(f".base.toml.{os.urandom(6).hex()}.tmp")
        aside.write_text(self.plan.config(), encoding="utf-8")
        aside.replace(self.base)

    def check(self, file: Path) -> None:
        """Raise UserError for a value that `pealm train` refuses, whatever the values of the other options."""
        draw = random.Random(0)
        first = {name: option.values[0] for name, option in self.plan.options.items()}
        with TemporaryDirectory() as folder:
            base = Path(folder) / "base.toml"
            base.write_text(self.plan.config(), encoding="utf-8")
            for name, option in self.plan.options.items():
                for value in option.values[:CHECKED]:
                    problem = ""
                    for attempt in range(ATTEMPTS):
                        others = {key: draw.choice(other.values) for key, other in self.plan.options.items()}
                        words = self.plan.words((others if attempt else first) | {name: value})
                        refused = self._refused(["--config", str(base), *words])
                        problem = problem or refused
                        if not refused or refused.startswith(f"--{name} "):  # the others don't matter
                            break
                    if refused:
                        line = problem.replace(str(base), str(file)).splitlines()[0]
                        raise UserError(f"{file}: {line.removeprefix(f'{file}: ')}")

    def _refused(self, words: list[str]) -> str:
        """Return why `pealm train` does not accept a command line; "" if it does."""
        root = self.ctx.find_root()
        command: Any = root.command
        try:
            command.get_command(root, "train").make_context("train", words, parent=root)
        except click.ClickException as error:
            return error.format_message()
        except PealmError as error:
            return str(error)
        return ""


def _work(study: Any, train: _Train, jobs: int, signals: list[int]) -> None:
    """Train until all trials are started and ours have ended, or a signal comes."""
    from pealm_sweep.page import describe, write
    from pealm_sweep.runner import Running, environment

    running: list[Running] = []
    try:
        while not signals:
            while len(running) < jobs and (trial := study.ask()) is not None:
                slot = min(set(range(jobs)) - {other.slot for other in running})
                run = study.folder / trial.user_attrs["run"]
                running.append(Running(trial, run, train.words(trial.params), environment(slot, jobs), slot))
                click.echo(f"{run.name}: {describe(trial.params)}")
            if not running:
                break
            for one in list(running):
                if (outcome := one.poll()) is not None:
                    running.remove(one)
                    _tell(study, one, outcome)
                    write(study)
                    _check_hope(study)
            time.sleep(POLL)
    finally:  # also where the sweep gives up: no trial stays in the journal as running
        for one in running:
            one.end()
        for one, outcome in [(one, one.wait()) for one in running]:
            if outcome is None:
                study.repeat(one.trial)
            else:
                _tell(study, one, outcome)
        write(study)


def _tell(study: Any, one: Any, outcome: Any) -> None:
    """Record how a trial has ended, and print a line about it."""
    from pealm_sweep.page import printable

    study.tell(one.trial, outcome.value, outcome.reason, pruned=outcome.pruned)
    result = "failed" if outcome.value is None else f"validation loss {outcome.value:.4f}"
    more = f": {outcome.reason}" if outcome.reason else ", pruned" if outcome.pruned else ""
    click.echo(printable(f"{one.run.name}: {result}{more}"))


def _check_hope(study: Any) -> None:
    """Raise PealmError if the first trials have all failed."""
    from pealm_sweep.page import printable

    states = [trial.state.name for trial in study.trials()]
    failed = [trial for trial in study.trials() if trial.state.name == "FAIL"]
    if len(failed) >= HOPELESS and not {"COMPLETE", "PRUNED"} & {*states}:
        reason = failed[-1].user_attrs["reason"]
        raise PealmError(printable(f"the first {len(failed)} trials have all failed; the last one: {reason}"))


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask the sweep to end."""
    seen: list[int] = []
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda number, frame: seen.append(number)) for number in numbers}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
