"""`pealm eval`: run an evaluation on a model."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from pealm_core.cli.components import ComponentCommand
from pealm_core.cli.given import checkpoint_config
from pealm_core.cli.sample import need_weights
from pealm_core.config.job import Job
from pealm_core.config.settings import DEVICES
from pealm_core.contract.errors import PealmError, PluginError, UserError
from pealm_core.contract.fields import dump, settings_of


@click.command(
    "eval",
    cls=ComponentCommand,
    flat={},
    components=("model", "tokenizer", "eval", "input"),
    given=checkpoint_config,
)
@click.argument("model", required=False)
@click.option("--ckpt", metavar="PATH", help="A run (its best weights), a checkpoint folder or a file in one.")
@click.option("--on", metavar="NAME", help="The evaluation.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows or documents.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the results as JSON, too.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="Where to compute.")
def evaluate(
    job: Job,
    ckpt: str | None,
    on: str | None,
    limit: int | None,
    output: Path | None,
    device: str,
    model: str | None,
) -> None:
    """Evaluate MODEL, or the model of a checkpoint.

    \b
    pealm eval --ckpt runs/gpt2/2026-11-22_10-15-30
    pealm eval --ckpt runs/char-transformer/2026-11-22_10-15-30 --on kindergarten
    pealm eval --ckpt PATH --on perplexity --input.text book.txt
    """
    need_weights(job, ckpt)
    if "eval" not in job.entries:
        raise UserError("eval needs an evaluation: --on NAME (pealm eval --help lists them)")
    if job.entries["eval"].spec.input and "input" not in job.entries:
        raise UserError(f"{job.entries['eval'].name} needs an input: --input.NAME, see --help")
    if limit is not None:
        job = _limited(job, limit)
    job.configs  # noqa: B018 (every mistake in the settings shows before torch is loaded)
    if output is not None and not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}")
    from pealm_core.hardware.device import pick_device
    from pealm_core.hardware.distributed import join, leave, peers, this_process

    world = this_process()
    picked = pick_device(device, world.local_rank)
    join(world, picked)
    with peers(world):
        evaluated, result, seconds = _evaluate(job, ckpt, picked, world)
    if world.main:
        _show(job, result, seconds)
        if output is not None:
            text = json.dumps(_record(job, evaluated, result, seconds), indent=2, ensure_ascii=False) + "\n"
            try:
                output.write_text(text, encoding="utf-8")
            except OSError as error:
                raise PealmError(f"--output {output}: {error.strerror}") from error
    leave()


def _limited(job: Job, limit: int) -> Job:
    """The job with the evaluation's setting `limit`."""
    entry, resolved = job.entries["eval"], job.resolved
    if "limit" not in settings_of(entry.config):
        raise UserError(f"{entry.name} takes no --limit")
    values = {**resolved.values, "eval": {**resolved.values["eval"], "limit": limit}}
    return replace(job, resolved=replace(resolved, values=values))


def _evaluate(job: Job, ckpt: str | None, device: Any, world: Any) -> tuple[dict[str, str | None], Any, float]:
    """Which weights were evaluated, the result and the seconds that it took, loading not counted."""
    from pealm_core.checkpoints.build import make_component
    from pealm_core.contract.protocols import EvalResult
    from pealm_core.hardware.distributed import one_by_one
    from pealm_core.inference.lm import open_job

    entry = job.entries["eval"]
    with world.together():
        evaluator, more = make_component(job, "eval"), _input(job)
    with one_by_one(world):  # the first process of a machine fetches the weights for its others
        while True:
            evaluated, lm = _evaluated(ckpt), open_job(job, ckpt, device=device)
            if _evaluated(ckpt) == evaluated:  # else a run that is still training has a better one by now
                break
    began = time.perf_counter()
    with world.together(), Bar(quiet=not world.main) as bar:
        try:
            result = evaluator.evaluate(lm.model, lm.tokenizer, config=lm.config, progress=bar.update, **more)
        except ValueError as error:
            raise UserError(f"--on {entry.name}: {error}") from error
        if not isinstance(result, EvalResult):
            raise PluginError(f"{entry.plugin.dist}: evaluate must give an EvalResult, not {result!r:.60}")
    return evaluated, result, time.perf_counter() - began


def _input(job: Job) -> dict[str, Any]:
    """What an evaluation on a dataset gets: the dataset and which part of it."""
    if "input" not in job.entries:
        return {}
    from pealm_core.checkpoints.build import make_component
    from pealm_core.contract.protocols import has

    dataset, value = make_component(job, "input"), job.entries["input"].spec.value
    named = value is not None and job.resolved.origins["input"][value] == "command line"
    return {"dataset": dataset, "split": "whole" if named and has(dataset, "whole") else "val"}


def _show(job: Job, result: Any, seconds: float) -> None:
    names = f"{job.entries['eval'].name} on {job.entries['model'].name}"
    click.echo(f"{names}: n = {result.n:,} in {seconds:.1f} s, {result.n / seconds:,.1f}/s")
    width = max(map(len, result.metrics), default=0)
    for key, (value, stderr) in result.metrics.items():
        click.echo(f"  {key:<{width}}  {value:>9.4f}" + (f" ± {stderr:.4f}" if stderr else ""))
    for line in result.notes:
        click.echo(line)


def _evaluated(ckpt: str | None) -> dict[str, str | None]:
    """Which weights are evaluated."""
    from pealm_core.checkpoints import folder as checkpoint

    if ckpt is None:
        return {"checkpoint": None, "checkpoint_sha256": None}
    folder = checkpoint.find(Path(ckpt))
    return {
        "checkpoint": str(folder),
        "checkpoint_sha256": checkpoint.state_of(folder)["files"][checkpoint.MODEL][1],
    }


def _record(job: Job, evaluated: dict[str, str | None], result: Any, seconds: float) -> dict[str, Any]:
    """What `--output` gets: the evaluation's own settings first."""
    tables = job.tables()
    return {
        **dump(job.configs.get("eval")),
        "evaluation": job.entries["eval"].name,
        "model": job.entries["model"].name,
        **evaluated,
        "n": result.n,
        "rows_per_second": result.n / seconds,
        "metrics": {key: {"value": value, "stderr": stderr} for key, (value, stderr) in result.metrics.items()},
        "notes": list(result.notes),
        "config": {table: values for table, values in tables.items() if table != "versions"},
        "versions": tables["versions"],
        "details": list(result.details),
    }


class Bar:
    """A live line on a terminal's stderr; nothing elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._live: Progress | None = None
        console = Console(file=sys.stderr)
        if console.is_terminal and not quiet:
            columns = TextColumn("{task.completed:,.0f} of {task.total:,.0f}  {task.description}")
            left = TimeRemainingColumn(compact=True)
            self._live = Progress(
                BarColumn(bar_width=24), columns, left, TextColumn("left"), console=console, transient=True
            )

    def __enter__(self) -> "Bar":
        if self._live is not None:
            self._live.add_task("", total=1.0)
            self._live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, done: int, total: int, text: str = "") -> None:
        """What an evaluation calls: how far it is, and what to say of it."""
        if self._live is not None:
            self._live.update(self._live.task_ids[0], completed=done, total=total, description=text)
