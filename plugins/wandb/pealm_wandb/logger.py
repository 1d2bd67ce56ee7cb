"""What is logged to Weights & Biases: metrics, samples as tables, settings, evaluations."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import wandb

from pealm_core import Run
from pealm_wandb.config import WandbConfig

LARGEST = 2**24  # bytes of a file of results


class Logger:
    """One run of ours as one run there, also when it resumes."""

    def __init__(self, run: Run, options: WandbConfig) -> None:
        """Start the run, or continue it. Raises an exception of wandb if that is impossible."""
        self.run, self.every = run, options.every
        self.samples = run.dir / "samples.jsonl"
        self.read = self.samples.stat().st_size if self.samples.exists() else 0  # bytes of samples.jsonl
        os.environ.setdefault("WANDB_SILENT", "true")  # the run has its own lines
        self.log: Any = wandb.init(
            project=options.project,
            entity=options.entity,
            name=options.run or run.dir.name,
            id=_identity(run.dir / "wandb" / "id"),
            mode=options.mode,
            dir=str(run.dir),
            config={key: value for key, value in run.config.items() if key != "plugins"},
            resume="allow",
            settings=wandb.Settings(console="off"),
        )

    def metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Log a step's numbers, and the sample of the step before."""
        self.new_samples()
        if step % self.every == 0 or "val_loss" in metrics:
            numbers = {name: value for name, value in metrics.items() if name != "step" and value is not None}
            self.log.log(numbers, step=step)

    def new_samples(self) -> None:
        """Log the texts that were appended to samples.jsonl."""
        if not self.samples.exists() or self.samples.stat().st_size <= self.read:
            return
        with self.samples.open("rb") as file:
            file.seek(self.read)
            lines = file.read()
        self.read += len(lines)
        for line in map(json.loads, lines.splitlines()):
            row = [line["step"], line["prompt"], line["text"]]
            self.log.log({"sample": wandb.Table(["step", "prompt", "text"], [row])}, step=line["step"])

    def close(self, status: str) -> None:
        """Log the last sample and the evaluations, and end the run there."""
        self.new_samples()
        files = (*self.run.dir.glob("*.json"), *self.run.dir.glob("evals/*.json"))
        for _, name, value in sorted(row for file in files for row in evaluation(file)):  # the last step's stay
            self.log.summary[name] = value
        self.log.finish(exit_code=0 if status == "done" else 1)


def _identity(file: Path) -> str:
    """Return the run's id there, which is kept in a file of the run's folder."""
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        aside = file.with_name(".id.tmp")
        aside.write_text(os.urandom(4).hex(), encoding="utf-8")
        aside.replace(file)
    return file.read_text(encoding="utf-8")


def evaluation(file: Path) -> Iterator[tuple[int, str, float]]:
    """Yield (step, name, value) of the metrics in a file that `pealm eval` wrote; nothing of another file."""
    try:
        if file.stat().st_size > LARGEST:
            return
        result = json.loads(file.read_text(encoding="utf-8"))
        for name, metric in result["metrics"].items():
            yield int(result.get("step") or 0), f"{result['evaluation']}/{name}", float(metric["value"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
