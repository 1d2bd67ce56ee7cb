"""`pealm eval`: run an evaluation on a model."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from pealm_core import ComponentCommand, UserError
from pealm_evals import results

DTYPES = click.Choice(("fp32", "tf32", "bf16", "auto"))
DTYPE_HELP = "Precision; tf32: fp32 with TF32 matrix products on CUDA; auto: bf16 where it is fast."
DEVICES = click.Choice(("auto", "cpu", "cuda", "mps"))
LIMIT_HELP = "Evaluate only the first N rows or documents."


@click.command("eval", cls=ComponentCommand, flat={}, components=("model", "tokenizer", "eval", "input"))
@click.argument("model", required=False)
@click.option("--ckpt", metavar="PATH", help="Run (its best weights), checkpoint folder or file in one.")
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Base weights of an adapter, if they have moved.",
)
@click.option("--on", "eval", metavar="NAME", help="Evaluation to run.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help=LIMIT_HELP)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the results to a JSON file (default, for a checkpoint of a run: evals/NAME-STEP.json in its folder).",
)
@click.option("--device", type=DEVICES, default="auto", help="Device to use.")
@click.option("--dtype", type=DTYPES, default="fp32", show_default=True, help=DTYPE_HELP)
def evaluate(
    job: Any, ckpt: str | None, base: Path | None, limit: int | None, output: Path | None, device: str, dtype: str
) -> None:
    """Evaluate MODEL or the model of a checkpoint.

    \b
    pealm eval --ckpt runs/gpt2/2026-11-22_10-15-30
    pealm eval --ckpt runs/char-transformer/2026-11-22_10-15-30 --on kindergarten
    pealm eval --ckpt PATH --on perplexity --input.text book.txt

    Without --on: loss, perplexity and bits per byte on the model's validation text, or on the text of --input.NAME; a
    model that names no text, such as gpt2-pretrained, is evaluated on HellaSwag.
    """
    model = job.entries.get("model")
    if ckpt is None and (model is None or model.spec.pretrained is None):
        what = f"model {model.name!r} has no weights of its own" if model else "no model was named"
        raise UserError(f"{what}: give --ckpt PATH, a run or a checkpoint folder")
    if output is not None:
        results.check(output)
    from pealm_core import processes
    from pealm_evals.evaluation import Evaluation

    with processes(device) as (world, picked):
        evaluation = Evaluation(job, world, limit=limit)
        lm = evaluation.open(None if ckpt is None else Path(ckpt), device=picked, dtype=dtype, base=base)
        started = time.perf_counter()
        result = evaluation.run(lm, show_progress)
        seconds = time.perf_counter() - started
    if world.main:
        record = results.record(evaluation, lm, result, seconds=seconds, dtype=dtype)
        kept = None
        if output is not None:  # before anything is shown: a reader such as `head` may end the command
            results.write(record, output)
        elif (place := results.place(lm.path, evaluation.name, limit)) is not None:
            kept = results.keep(record, place)
        results.show(record, seconds)
        if kept is not None:
            click.echo(f"written: {os.path.relpath(kept)}")


def show_progress(done: int, total: int, text: str = "") -> None:
    """Show how far an evaluation is on a terminal's stderr."""
    if sys.stderr is not None and sys.stderr.isatty():
        line = f"{done:,} of {total:,}  {text}" if done < total else ""
        click.echo(f"\r\x1b[K{line}", nl=False, err=True)
