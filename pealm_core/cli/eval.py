"""`pealm eval`: run an evaluation on a model."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from pealm_core.cli.components import ComponentCommand, checkpoint_config
from pealm_core.cli.sample import need_weights
from pealm_core.config.job import Job
from pealm_core.config.settings import DEVICES
from pealm_core.contract.errors import PealmError, PluginError, UserError
from pealm_core.contract.fields import dump, settings_of
from pealm_core.hardware.launch import launched


@click.command(
    "eval",
    cls=ComponentCommand,
    flat={},
    components=("model", "tokenizer", "eval", "input"),
    config_file=checkpoint_config,
)
@click.argument("model", required=False)
@click.option("--ckpt", metavar="PATH", help="Run (its best weights), checkpoint folder or file in one.")
@click.option("--on", metavar="NAME", help="Evaluation to run.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Evaluate only the first N rows or documents.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the results to a JSON file.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="Device to use.")
@click.option(
    "--dtype",
    type=click.Choice(("fp32", "tf32", "bf16", "auto")),
    default="fp32",
    show_default=True,
    help="Precision; tf32: fp32 with TF32 matrix products on CUDA; auto: bf16 where it is fast.",
)
def evaluate(
    job: Job,
    ckpt: str | None,
    limit: int | None,
    output: Path | None,
    device: str,
    dtype: str,
    **named: Any,
) -> None:
    """Evaluate MODEL or the model of a checkpoint.

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
    if output is not None and not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}")
    launched()
    from pealm_core.hardware.device import pick_device
    from pealm_core.hardware.distributed import join, leave, peers, this_process

    world = this_process()
    picked = pick_device(device, world.local_rank)
    join(world, picked)
    with peers(world):
        evaluated, result, seconds = _evaluate(job, ckpt, picked, dtype, world)
    if world.main:
        _show(job, result, seconds)
        if output is not None:
            text = json.dumps(_record(job, evaluated, dtype, result, seconds), indent=2, ensure_ascii=False) + "\n"
            try:
                output.write_text(text, encoding="utf-8")
            except OSError as error:
                raise PealmError(f"--output {output}: {error.strerror}") from error
    leave()


def _limited(job: Job, limit: int) -> Job:
    """Return the job with the evaluation's setting `limit`. Raises UserError."""
    config = job.configs["eval"]
    if "limit" not in settings_of(job.entries["eval"].config):
        raise UserError(f"{job.entries['eval'].name} takes no --limit")
    try:
        return replace(job, configs={**job.configs, "eval": replace(config, limit=limit)})
    except ValueError as error:
        raise UserError(f"--limit {limit}: {error}") from error


def _evaluate(
    job: Job, ckpt: str | None, device: Any, dtype: str, world: Any
) -> tuple[dict[str, str | None], Any, float]:
    """Return the weights' identity, the result and the seconds it took without loading."""
    from pealm_core.checkpoints.build import make_component
    from pealm_core.contract.protocols import EvalResult
    from pealm_core.hardware.distributed import one_by_one
    from pealm_core.inference.lm import open_job

    entry = job.entries["eval"]
    with world.together():
        evaluator, more = make_component(job, "eval"), _input(job)
    with one_by_one(world):  # a machine's first process downloads the weights for its others
        while True:
            evaluated, lm = _evaluated(ckpt), open_job(job, ckpt, device=device, dtype=dtype)
            if _evaluated(ckpt) == evaluated:  # else a run that is still training has saved a better one
                break
    started = time.perf_counter()
    with world.together(), progress_bar(quiet=not world.main) as update:
        try:
            result = evaluator.evaluate(lm.model, lm.tokenizer, config=lm.config, progress=update, **more)
        except ValueError as error:
            raise UserError(f"--on {entry.name}: {error}") from error
        if not isinstance(result, EvalResult):
            raise PluginError(f"{entry.plugin.dist}: evaluate must give an EvalResult, not {result!r:.60}")
    return evaluated, result, time.perf_counter() - started


def _input(job: Job) -> dict[str, Any]:
    """Return the dataset of an evaluation that needs one, and the split to evaluate."""
    if "input" not in job.entries:
        return {}
    from pealm_core.checkpoints.build import make_component
    from pealm_core.contract.protocols import has

    dataset, value = make_component(job, "input"), job.entries["input"].spec.value
    chosen = value is not None and job.origins["input"][value] == "command line"
    return {"dataset": dataset, "split": "whole" if chosen and has(dataset, "whole") else "val"}


def _show(job: Job, result: Any, seconds: float) -> None:
    names = f"{job.entries['eval'].name} on {job.entries['model'].name}"
    click.echo(f"{names}: n = {result.n:,} in {seconds:.1f} s, {result.n / seconds:,.1f}/s")
    width = max(map(len, result.metrics), default=0)
    for key, (value, stderr) in result.metrics.items():
        click.echo(f"  {key:<{width}}  {value:>9.4f}" + (f" ± {stderr:.4f}" if stderr else ""))
    for line in result.notes:
        click.echo(line)


def _evaluated(ckpt: str | None) -> dict[str, str | None]:
    """Return the path and hash of the weights."""
    from pealm_core.checkpoints import folder as checkpoint

    if ckpt is None:
        return {"checkpoint": None, "checkpoint_sha256": None}
    folder = checkpoint.find(Path(ckpt))
    return {
        "checkpoint": str(folder),
        "checkpoint_sha256": checkpoint.state_of(folder)["files"][checkpoint.MODEL][1],
    }


def _record(job: Job, evaluated: dict[str, str | None], dtype: str, result: Any, seconds: float) -> dict[str, Any]:
    """Return the content of `--output`: the evaluation's own settings first."""
    tables = job.tables()
    return {
        **dump(job.configs.get("eval")),
        "evaluation": job.entries["eval"].name,
        "model": job.entries["model"].name,
        **evaluated,
        "dtype": dtype,
        "n": result.n,
        "rows_per_second": result.n / seconds,
        "metrics": {key: {"value": value, "stderr": stderr} for key, (value, stderr) in result.metrics.items()},
        "notes": list(result.notes),
        "config": {table: values for table, values in tables.items() if table != "versions"},
        "versions": tables["versions"],
        "details": list(result.details),
    }


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[..., None]]:
    """Show a progress bar on a terminal's stderr. Yields the function that evaluations call: (done, total, text)."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda done, total, text="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    counts = TextColumn("{task.completed:,.0f} of {task.total:,.0f}  {task.description}")
    columns = BarColumn(bar_width=24), counts, TimeRemainingColumn(compact=True), TextColumn("left")
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as live:
        task = live.add_task("", total=1.0)

        def update(done: int, total: int, text: str = "") -> None:
            live.update(task, completed=done, total=total, description=text)

        yield update
