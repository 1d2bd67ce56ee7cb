"""`pealm eval`: run an evaluation on a model."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import click

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.cli.components import ComponentCommand
from pealm_core.cli.sample import BASE, need_weights
from pealm_core.config.job import Job
from pealm_core.config.settings import DEVICES
from pealm_core.config.toml_layers import read_regular
from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import dump, settings_of
from pealm_core.contract.protocols import EvalResult


@click.command("eval", cls=ComponentCommand, flat={}, components=("model", "tokenizer", "eval", "input"))
@click.argument("model", required=False)
@click.option("--ckpt", metavar="PATH", help="Run (its best weights), checkpoint folder or file in one.")
@click.option("--base", type=click.Path(path_type=Path), metavar="PATH", help=BASE)
@click.option("--on", "eval", metavar="NAME", help="Evaluation to run.")
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
    job: Job, ckpt: str | None, base: Path | None, limit: int | None, output: Path | None, device: str, dtype: str
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
    entry = job.entries["eval"]
    if entry.spec.input and not job.inputs:
        raise UserError(f"{entry.name} needs an input: --input.NAME, see --help")
    if limit is not None:
        if "limit" not in settings_of(entry.config):
            raise UserError(f"{entry.name} takes no --limit")
        job = replace(job, configs={**job.configs, "eval": replace(job.configs["eval"], limit=limit)})
    if output is not None:
        _check_output(output)
    from pealm_core.hardware.device import pick_device
    from pealm_core.hardware.distributed import join, leave, peers, this_process

    world = this_process()
    picked = pick_device(device)
    join(world, picked)
    with peers(world):
        record = _evaluate(job, ckpt, base, picked, dtype, world)
    if world.main:
        n, speed = record["n"], record["rows_per_second"]
        click.echo(f"{entry.name} on {record['model']}: n = {n:,} in {n / speed:.1f} s, {speed:,.1f}/s")
        width = max(map(len, record["metrics"]), default=0)
        for key, metric in record["metrics"].items():
            error = f" ± {metric['stderr']:.4f}" if metric["stderr"] else ""
            click.echo(f"  {key:<{width}}  {metric['value']:>9.4f}{error}")
        for line in record["notes"]:
            click.echo(line)
        if output is not None:
            output.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    leave()


def _check_output(path: Path) -> None:
    """Raise UserError if the results can't be written there, or would replace a file with anything else in it."""
    try:
        if not path.parent.is_dir():
            raise UserError(f"--output {path}: there is no folder {path.parent}")
        text = read_regular(path).strip() if path.exists() else b""
    except OSError as error:
        raise UserError(f"--output {path}: {error.strerror or error}") from None
    if text and not (text.startswith(b"{") and b'\n  "evaluation": ' in text):
        raise UserError(f"--output {path}: exists and is not a file of results; choose another name")


def _evaluate(job: Job, ckpt: str | None, base: Path | None, device: Any, dtype: str, world: Any) -> dict[str, Any]:
    """Evaluate and return the content of `--output`: the evaluation's own settings first."""
    from pealm_core.contract.protocols import has
    from pealm_core.data.sources import labels
    from pealm_core.hardware.distributed import one_by_one
    from pealm_core.inference.lm import open_job
    from pealm_core.plugins.calls import call

    entry, inputs = job.entries["eval"], dict[str, dict[str, Any]]()
    with world.together():
        evaluator = job.make("eval")
        for label, table in zip(labels(job), job.inputs, strict=True):
            dataset, value = job.make(table), job.entries[table].spec.value
            whole = has(dataset, "whole") and job.origins[table].get(value) == "command line"
            inputs[label] = {"dataset": dataset, "split": "whole" if whole else "val"}
    with one_by_one(world):  # a machine's first process downloads the weights for its others
        folder = None if ckpt is None else checkpoint.find(Path(ckpt))
        digest = folder and checkpoint.state_of(folder)["files"][checkpoint.MODEL][1]
        lm = open_job(job, folder, device=device, dtype=dtype, base=base)
    started = time.perf_counter()
    with world.together():
        try:
            progress = _show_progress if world.main else lambda *_: None
            options = {"config": _with_inputs(lm.config), "progress": progress}
            results = {
                label: call(evaluator.evaluate, (_correct, RESULT), lm.model, lm.tokenizer, **options, **more)
                for label, more in (inputs or {"": {}}).items()
            }
        except ValueError as error:
            raise UserError(f"--on {entry.name}: {error}") from error
        result = _joined(results)
    tables = job.tables()
    return {
        **dump(job.configs["eval"]),
        "evaluation": entry.name,
        "model": job.entries["model"].name,
        "checkpoint": folder and str(folder),
        "checkpoint_sha256": digest,
        "dtype": dtype,
        "n": result.n,
        "rows_per_second": result.n / (time.perf_counter() - started),
        "metrics": {key: {"value": value, "stderr": stderr} for key, (value, stderr) in result.metrics.items()},
        "notes": list(result.notes),
        "versions": tables.pop("versions"),
        "config": {**tables, **({"adapter": lm.config["adapter"]} if "adapter" in lm.config else {})},
        "details": list(result.details),
    }


def _joined(results: Mapping[str, EvalResult]) -> EvalResult:
    """Return the results of a mixture's inputs as one, with `loss/NAME`."""
    if len(results) == 1:
        return next(iter(results.values()))
    each = results.items()
    return EvalResult(
        {f"{key}/{name}": metric for name, result in each for key, metric in result.metrics.items()},
        sum(result.n for result in results.values()),
        [f"{name}: {note}" for name, result in each for note in result.notes],
        [{"input": name, **detail} for name, result in each for detail in result.details],
    )


RESULT = "an EvalResult: metrics, each a pair of numbers by name; n, a number; notes, texts; details, values for JSON"


def _correct(r: Any) -> bool:
    """Whether an evaluator's result is one; exceptions mean that it is not."""
    good = isinstance(r, EvalResult) and r.n >= 0 and all(isinstance(text, str) for text in r.notes)
    pairs = all(isinstance(value, Real) and isinstance(error, Real) for value, error in r.metrics.values())
    return good and pairs and bool(json.dumps([*r.details]))


def _with_inputs(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's config with its inputs as a list; those of a mixture only there."""
    given = config.get("input")
    if isinstance(given, list):
        return {**{table: values for table, values in config.items() if table != "input"}, "inputs": given}
    return {**config, "inputs": [given] if given else []}


def _show_progress(done: int, total: int, text: str = "") -> None:
    """Show how far an evaluation is on a terminal's stderr."""
    if sys.stderr is not None and sys.stderr.isatty():
        line = f"{done:,} of {total:,}  {text}" if done < total else ""
        click.echo(f"\r\x1b[K{line}", nl=False, err=True)
