"""`pealm compare`: several models on the same rows, with paired differences."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pealm_core import ComponentCommand, UserError
from pealm_evals import results
from pealm_evals.command import DEVICES, DTYPE_HELP, DTYPES, LIMIT_HELP, show_progress


@click.command(cls=ComponentCommand, flat={}, components=("model", "tokenizer", "eval", "input"))
@click.argument("ckpt", metavar="FIRST")
@click.argument("others", metavar="OTHER...", nargs=-1, required=True)
@click.option("--on", "eval", metavar="NAME", help="Evaluation to run.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help=LIMIT_HELP)
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the results to a JSON file.")
@click.option("--device", type=DEVICES, default="auto", help="Device to use.")
@click.option("--dtype", type=DTYPES, default="fp32", show_default=True, help=DTYPE_HELP)
def compare(
    job: Any, ckpt: str, others: tuple[str, ...], limit: int | None, output: Path | None, device: str, dtype: str
) -> None:
    """Compare models: runs (their best weights) or checkpoints, each with FIRST, on the same rows.

    \b
    pealm compare runs/adamw runs/muon
    pealm compare runs/small runs/large --on hellaswag --limit 1000

    Without --on: loss and bits per byte on FIRST's validation text, or on the text of --input.NAME. Prints each
    difference to FIRST with its 95 % interval by paired bootstrap over the rows and, where each row is right or
    wrong, the p-value of McNemar's exact test, without rows on which a model's best choices are equally likely. The
    loss per token of models with different tokenizers is left out.
    """
    if output is not None:
        results.check(output)
    from pealm_core import load, processes
    from pealm_evals.evaluation import Evaluation

    paths = [ckpt, *others]
    found = []
    with processes(device) as (world, picked):
        evaluation = Evaluation(job, world, limit=limit, details=True)
        for path in paths:
            lm = load(path, device=picked, dtype=dtype)
            found.append((lm, evaluation.run(lm, show_progress)))
            lm.model.to("meta")  # frees its memory
    if world.main:
        tokens = {
            repr(sorted(lm.config.get("tokenizer", {}).items())) + str(lm.tokenizer.vocab_size) for lm, _ in found
        }
        names = [name for name in found[0][1].metrics if len(tokens) == 1 or name.partition("/")[0] not in LOSSES]
        record = {
            "evaluation": evaluation.name,
            "models": paths,
            "dtype": dtype,
            "metrics": _metrics(evaluation.name, names, [result.details for _, result in found]),
            "notes": list(dict.fromkeys(_notes(paths, [result.notes for _, result in found]))),
        }
        if output is not None:
            results.write(record, output)
        _show(record)


LOSSES = ("loss", "perplexity")  # per token
FEWEST = 8  # rows for an interval
CREDITS = (0.0, *(1 / n for n in range(1, 101)))  # of a wrong choice, a right one, and one of n equally likely ones


def _metrics(name: str, metrics: Sequence[str], details: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return for each metric the number of rows and each model's value and difference. Raises UserError."""
    import numpy as np

    from pealm_evals.paired import interval, mcnemar, value
    from pealm_evals.rows import metrics_of, same_rows

    comparable = metrics_of(details[0], metrics)
    if not comparable:
        raise UserError(f"{name} tells no value for each row, so that models can't be compared by it")
    table: dict[str, Any] = {}
    for metric in comparable:
        rows = same_rows(metric, details)
        first, binary = rows[0], all(np.isin(own[:, 0], CREDITS).all() and (own[:, 1] == 1).all() for own in rows)
        entries: list[dict[str, Any]] = [{"value": value(first)}]
        for other in rows[1:]:
            entry = {"value": value(other), "difference": value(other) - value(first)}
            if len(first) >= FEWEST:
                entry |= dict(zip(("low", "high"), interval(first, other), strict=True))
            if binary:
                both = np.stack([first[:, 0], other[:, 0]])
                entry["p"] = mcnemar(*(both[:, np.isin(both, (0, 1)).all(0)] == 1).tolist())
            entries.append(entry)
        table[metric] = {"rows": len(first), "models": entries}
    return table


def _notes(paths: Sequence[str], notes: Sequence[Sequence[str]]) -> list[str]:
    """Return what evaluations say of all models, and what they say of one, with its name."""
    shared = [note for note in notes[0] if all(note in others for others in notes)]
    return shared + [f"{path}: {n}" for path, own in zip(paths, notes, strict=True) for n in own if n not in shared]


def _show(record: Mapping[str, Any]) -> None:
    """Print the table."""
    rows: list[tuple[str, ...]] = [("metric", "model", "value", "difference", "95 % interval", "p (McNemar)")]
    for metric, table in record["metrics"].items():
        for number, (path, entry) in enumerate(zip(record["models"], table["models"], strict=True)):
            change = f"{entry['difference']:+.4f}" if number else ""
            ends = f"{entry['low']:+.4f} to {entry['high']:+.4f}" if "low" in entry else "too few rows" * bool(number)
            p = f"{entry['p']:.3g}" if "p" in entry else ""
            rows.append((metric if not number else "", path, f"{entry['value']:.4f}", change, ends, p))
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    counts = sorted({table["rows"] for table in record["metrics"].values()})
    click.echo(
        f"{record['evaluation']}: {' or '.join(f'{count:,}' for count in counts)} rows, the same for each model"
    )
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for line in record["notes"]:
        click.echo(line)
