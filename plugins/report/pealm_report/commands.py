"""`pealm report` and `pealm runs`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pealm_core import UserError
from pealm_report.reading import Run, find, is_number, read
from pealm_report.words import printable, short, size


@click.command()
@click.argument("folders", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Output file (default: report.html in the run's folder; for several runs, in the current folder).",
)
def report(folders: tuple[Path, ...], output: Path | None) -> None:
    """Write an HTML page about one run, or one that compares several, or those of a `pealm sweep`.

    \b
    pealm report runs/shakespeare
    pealm report runs/adamw runs/muon --output compared.html
    pealm report runs/study

    It shows the curves, also of `pealm train --track`, what differs between the settings, the texts of `pealm train
    --sample-every`, and the results that `pealm eval --ckpt RUN` keeps in the run's folder. The page is one file that
    needs no network.
    """
    from pealm_report.study import runs_of

    study = runs_of(folders[0]) if len(folders) == 1 else None
    runs = study or [read(folder) for folder in dict.fromkeys(folders)]
    target = output or (folders[0] / "report.html" if len(folders) == 1 else Path("report.html"))
    if not target.parent.is_dir():
        raise UserError(f"--output {target}: there is no folder {target.parent}")
    if target.is_dir():
        raise UserError(f"--output {target} is a folder; give a file, {target / 'report.html'} for instance")
    from pealm_report.page import is_page, write

    if target.exists() and not is_page(target):
        raise UserError(f"--output {target} exists and is not a page of `pealm report`; choose another file")
    write(runs, target, study=study is not None)
    click.echo(f"written: {printable(str(target))}")


@click.command()
@click.argument("folder", required=False, default="runs", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As JSON, one object for each run.")
def runs(folder: Path, as_json: bool) -> None:
    """List the runs at or below FOLDER (default: runs) with their best validation loss in nats per token,
    and the first metric of each evaluation at its last step.

    States: running; running on HOST (it was started there; whether it has ended can't be seen from here); done;
    interrupted (by a signal; `pealm train --out RUN` resumes it); pruned (by `pealm sweep`); failed (with an error);
    killed; stopped (an older run that was not finished).
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the one that holds your runs")
    found, wrong = [], []
    for path in find(folder):
        try:
            found.append(read(path))
        except UserError as error:
            wrong.append(printable(str(error)))
    if as_json:
        click.echo(json.dumps([_facts(run) for run in found], indent=1))
    elif not found:
        click.echo(f"no runs below {folder}")
    else:
        _table(
            [
                ("run", "model", "data", "steps", "tokens", "best loss", "evaluations", "state", "size"),
                *map(_row, found),
            ]
        )
    for line in wrong:
        click.echo(f"pealm: not listed: {line}", err=True)


def _facts(run: Run) -> dict[str, object]:
    summary = run.summary
    return {
        "run": str(run.dir),
        "model": run.model,
        "data": run.data,
        "step": summary.step,
        "steps": run.steps,
        "tokens": summary.tokens,
        "best_loss": summary.best_loss,
        "entropy_floor": run.floor,
        "state": run.state,
        "bytes": summary.size,
        "evaluations": [
            {key: result.get(key) for key in ("evaluation", "step", "n", "metrics")} | {"file": name}
            for name, result in run.evaluations
        ],
    }


def _row(run: Run) -> tuple[str, ...]:
    summary = run.summary
    best = "–" if summary.best_loss is None else f"{summary.best_loss:.4f}"
    if summary.best_loss is not None and run.floor:
        best += f" (floor {run.floor:.4f})"
    steps = f"{summary.step:,}" + (f"/{run.steps:,}" if run.steps and run.steps != summary.step else "")
    results = "; ".join(f"{name} {_first(result)}" for name, result in run.last_evaluations.items()) or "–"
    tokens, bytes_ = short(summary.tokens), size(summary.size)
    cells = (str(run.dir), run.model, run.data, steps, tokens, best, results, run.state, bytes_)
    return tuple(map(printable, cells))


def _first(result: Mapping[str, Any]) -> str:
    """Return the first metric of an evaluation: "acc 0.2863"."""
    values = {name: metric.get("value") for name, metric in result["metrics"].items() if isinstance(metric, dict)}
    return next((f"{name} {value:.4f}" for name, value in values.items() if is_number(value)), "–")


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = ("steps", "tokens", "size")
    for row in rows:
        cells = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(row, widths, rows[0], strict=True)
        ]
        click.echo("  ".join(cells).rstrip())
