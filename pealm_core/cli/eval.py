"""`pealm eval`: run an evaluation on a model."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from pealm_core.cli.components import ComponentCommand
from pealm_core.cli.given import checkpoint_config
from pealm_core.cli.sample import need_weights
from pealm_core.errors import PluginError, UserError
from pealm_core.job import Job
from pealm_core.settings import DEVICES


@click.command(
    "eval", cls=ComponentCommand, flat={}, components=("model", "tokenizer", "eval"), given=checkpoint_config
)
@click.argument("model", required=False)
@click.option("--ckpt", metavar="PATH", help="A run (its best weights), a checkpoint folder or a file in one.")
@click.option("--on", metavar="NAME", help="The evaluation.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the results as JSON, too.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="Where to compute.")
def evaluate(job: Job, ckpt: str | None, on: str | None, output: Path | None, device: str, model: str | None) -> None:
    """Evaluate MODEL, or the model of a checkpoint.

    \b
    pealm eval --ckpt runs/char-transformer/2026-11-22_10-15-30 --on kindergarten
    """
    need_weights(job, ckpt)
    if "eval" not in job.entries:
        raise UserError("eval needs an evaluation: --on NAME (pealm eval --help lists them)")
    job.configs  # noqa: B018 (every mistake in the settings shows before torch is loaded)
    if output is not None and not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}")
    from pealm_core.build import make_component
    from pealm_core.lm import open_job
    from pealm_core.protocols import EvalResult

    evaluator = make_component(job, "eval")
    lm = open_job(job, ckpt, device=device)
    began = time.perf_counter()
    try:
        result = evaluator.evaluate(lm.model, lm.tokenizer, config=lm.config, progress=_progress)
    except ValueError as error:
        raise UserError(f"--on {job.entries['eval'].name}: {error}") from error
    if not isinstance(result, EvalResult):
        raise PluginError(f"{job.entries['eval'].plugin.dist}: evaluate must give an EvalResult, not {result!r:.60}")
    seconds = time.perf_counter() - began
    name = job.entries["eval"].name
    width = max(map(len, result.metrics), default=0)
    click.echo(f"{name} on {job.entries['model'].name}: n = {result.n:,}, {seconds:.1f} s")
    for key, (value, stderr) in result.metrics.items():
        click.echo(f"  {key:<{width}}  {value:>9.4f}" + (f" ± {stderr:.4f}" if stderr else ""))
    for line in result.notes:
        click.echo(line)
    if output is not None:
        output.write_text(json.dumps(_record(job, ckpt, name, result), indent=2) + "\n", encoding="utf-8")


def _record(job: Job, ckpt: str | None, name: str, result: Any) -> dict[str, Any]:
    return {
        "evaluation": name,
        "model": job.entries["model"].name,
        "checkpoint": ckpt,
        "n": result.n,
        "metrics": {key: {"value": value, "stderr": stderr} for key, (value, stderr) in result.metrics.items()},
        "config": job.tables(),
    }


def _progress(done: int, total: int) -> None:
    """A counter on a terminal's stderr; nothing elsewhere."""
    if sys.stderr.isatty():
        click.echo(f"\r{done:,} of {total:,}" + ("\n" if done >= total else ""), nl=False, err=True)
