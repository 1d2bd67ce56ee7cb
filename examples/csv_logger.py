"""A logger: the metrics of each step in RUN/metrics.csv, for a spreadsheet. `every` is a setting of its own.

pealm --plugin examples/csv_logger.py train char-transformer --input.tinyshakespeare --steps 500 --out runs/csv
head -3 runs/csv/metrics.csv
pealm --plugin examples/csv_logger.py train --out runs/csv --steps 1000 --observer.csv.every 10
"""

import csv
from dataclasses import dataclass

from pealm_core import ObserverSpec, hookimpl, setting

COLUMNS = ("step", "loss", "val_loss", "lr", "grad_norm")


@dataclass(frozen=True)
class Config:
    every: int = setting(1, "steps between two rows", at_least=1)


@hookimpl
def pealm_observers():
    yield ObserverSpec(name="csv", summary="Metrics as a CSV file", config=Config)


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
    if trainer.run.rank == 0 and step % trainer.options("csv").every == 0:
        with path(trainer).open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, extrasaction="ignore").writerow(metrics)
