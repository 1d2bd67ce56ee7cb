"""What is written for TensorBoard: scalars, texts and hyperparameters."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from pealm_core import Run
from pealm_tensorboard.config import TensorBoardConfig

LARGEST = 2**24  # bytes of a file of results


class Writer:
    """The files of one run."""

    def __init__(self, run: Run, options: TensorBoardConfig, step: int) -> None:
        """Open the files. What was written after `step`, from which the run resumes, is hidden."""
        self.run, self.every = run, options.every or 1
        self.writer: Any = SummaryWriter(str(options.dir or run.dir / "tensorboard"), purge_step=step + 1)
        self.step = step
        self.best = min(losses(run.dir / "metrics.jsonl"), default=math.inf)  # of the run that resumes
        self.samples = run.dir / "samples.jsonl"
        self.read = self.samples.stat().st_size if self.samples.exists() else 0  # bytes of samples.jsonl
        settings = json.dumps(run.config, indent=1, default=str)
        self.writer.add_text("settings", "".join(f"    {line}\n" for line in settings.splitlines()), step)

    def metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add a step's numbers, and the sample of the step before."""
        self.new_samples()
        self.step, loss = step, metrics.get("val_loss")
        self.best = min(self.best, math.inf if loss is None else loss)
        if step % self.every == 0 or loss is not None:
            for name, value in metrics.items():
                if name != "step" and value is not None:
                    self.writer.add_scalar(name, value, step)

    def new_samples(self) -> None:
        """Add the texts that were appended to samples.jsonl."""
        if not self.samples.exists() or self.samples.stat().st_size <= self.read:
            return
        with self.samples.open("rb") as file:
            file.seek(self.read)
            lines = file.read()
        self.read += len(lines)
        for line in map(json.loads, lines.splitlines()):
            text = f"{line['prompt']}{line['text']}"
            self.writer.add_text("sample", "".join(f"    {row}\n" for row in text.splitlines()), line["step"])

    def close(self) -> None:
        """Write the last sample, the evaluations and the hyperparameters; close the files."""
        self.new_samples()
        files = (*self.run.dir.glob("*.json"), *self.run.dir.glob("evals/*.json"))
        results = sorted((row for file in files for row in evaluation(file)), key=lambda row: row[0] or self.step)
        for step, name, value in results:
            self.writer.add_scalar(name, value, step or self.step)
        if math.isfinite(self.best):
            values = {"best_val_loss": self.best, **{name: value for _, name, value in results}}
            self.writer.add_hparams(dict(hyperparameters(self.run.config)), values, run_name=".")
        self.writer.close()


def losses(file: Path) -> Iterator[float]:
    """Yield the validation losses in metrics.jsonl after the first step."""
    if file.exists():
        with file.open("rb") as lines:
            for row in (json.loads(line) for line in lines if b'"val_loss"' in line):
                if row["step"]:
                    yield row["val_loss"]


def evaluation(file: Path) -> Iterator[tuple[int, str, float]]:
    """Yield (step, name, value) of the metrics in a file that `pealm eval` wrote; nothing of another file.

    step: of the checkpoint, 0 if it is not known.
    """
    try:
        if file.stat().st_size > LARGEST:
            return
        result = json.loads(file.read_text(encoding="utf-8"))
        for name, metric in result["metrics"].items():
            yield int(result.get("step") or 0), f"{result['evaluation']}/{name}", float(metric["value"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return


def hyperparameters(config: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a run's settings by their place, `train.lr`, without versions.

    >>> dict(hyperparameters({"train": {"lr": 0.1, "without": ["gc"]}, "versions": {"pealm-core": "0.1"}}))
    {'train.lr': 0.1, 'train.without': "['gc']"}
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from hyperparameters(value, f"{place}{key}.") if place or key not in ("versions", "plugins") else ()
        else:
            yield f"{place}{key}", value if isinstance(value, bool | int | float | str) else str(value)
