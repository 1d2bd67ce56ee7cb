"""A logger: the metrics of each step in RUN/metrics.csv, for a spreadsheet.

pealm --plugin examples/csv_logger.py train char-transformer --input.tinyshakespeare --steps 500 --out runs/csv
head -3 runs/csv/metrics.csv
"""

import csv

from pealm_core import hookimpl

COLUMNS = ("step", "loss", "val_loss", "lr", "grad_norm")


def path(trainer):
    return trainer.run.dir / "metrics.csv"


@hookimpl
def pealm_run_start(trainer):
    if trainer.run.rank != 0:  # hooks are called on every rank
        return
    rows = []
    if path(trainer).exists():  # the run resumes, perhaps from an earlier step than the last one in the file
        with path(trainer).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= trainer.step]
    with path(trainer).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@hookimpl
def pealm_metrics(trainer, step, metrics):
    """Called for each step, in order. `metrics` is its line of metrics.jsonl, to which numbers may be added."""
    if trainer.run.rank == 0:
        with path(trainer).open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, extrasaction="ignore").writerow(metrics)
