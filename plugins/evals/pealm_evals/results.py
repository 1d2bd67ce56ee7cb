"""The results of an evaluation: on the screen, and as a JSON file, by default in the folder of the run."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pealm_core import EvalResult, PealmError, UserError

if TYPE_CHECKING:
    from pealm_core import LM
    from pealm_evals.evaluation import Evaluation

FOLDER = "evals"  # of a run


def record(evaluation: "Evaluation", lm: "LM", result: EvalResult, *, seconds: float, dtype: str) -> dict[str, Any]:
    """Return the content of a file of results: the evaluation's own settings first."""
    tables, state = evaluation.job.tables(), _state(lm.path)
    settings = {key: value for key, value in tables["eval"].items() if key != "name"}
    adapter = {"adapter": lm.config["adapter"]} if "adapter" in lm.config else {}
    return {
        **settings,
        "evaluation": evaluation.name,
        "model": tables["model"]["name"],
        "checkpoint": lm.path and str(lm.path),
        "checkpoint_sha256": state and state["files"]["model.safetensors"][1],
        "step": state.get("step"),
        "dtype": dtype,
        "n": result.n,
        "rows_per_second": result.n / seconds,
        "metrics": {key: {"value": value, "stderr": stderr} for key, (value, stderr) in result.metrics.items()},
        "notes": list(result.notes),
        "versions": tables.pop("versions"),
        "config": {**tables, **adapter},
        "details": list(result.details),
    }


def _state(folder: Path | None) -> dict[str, Any]:
    """Return the facts of a checkpoint, which was read before."""
    if folder is None:
        return {}
    state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return state


def show(record: dict[str, Any], seconds: float) -> None:
    """Print the metrics with their standard errors, and the notes."""
    name, n = record["evaluation"], record["n"]
    click.echo(f"{name} on {record['model']}: n = {n:,} in {seconds:.1f} s, {record['rows_per_second']:,.1f}/s")
    width = max(map(len, record["metrics"]), default=0)
    for key, metric in record["metrics"].items():
        error = f" ± {metric['stderr']:.4f}" if metric["stderr"] else ""
        click.echo(f"  {key:<{width}}  {metric['value']:>9.4f}{error}")
    for line in record["notes"]:
        click.echo(line)


def place(checkpoint: Path | None, name: str, limit: int | None) -> Path | None:
    """Return where a run keeps the results of one of its checkpoints; None if it is not in a run.

    The results of a part of the rows have a file of their own.
    """
    if checkpoint is None:
        return None
    folder = checkpoint.absolute()
    run = (
        folder.parent
        if folder.name == "best"
        else folder.parent.parent
        if folder.parent.name == "checkpoints"
        else None
    )
    if run is None or not (run / "config.toml").is_file() or not (run / "metrics.jsonl").is_file():
        return None
    part = "" if limit is None else f"-limit-{limit}"
    return run / FOLDER / f"{name.replace('/', '-')}-{_state(checkpoint)['step']}{part}.json"


def keep(record: dict[str, Any], target: Path) -> Path | None:
    """Write a file in the run's folder and return its path; None if the folder can't be written, which is no error.

    Results of another text or other settings stay: these get a file of their own, with a hash in its name.
    """
    try:
        if target.parent.is_symlink():
            raise PealmError(f"{target.parent} is a link")
        target.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError, ValueError):  # what is no JSON is replaced
            if (own := _question(record)) != _question(json.loads(target.read_text(encoding="utf-8"))):
                target = target.with_stem(f"{target.stem}-{hashlib.sha256(own.encode()).hexdigest()[:8]}")
        write(record, target)
    except (OSError, PealmError) as error:
        click.echo(f"pealm: the results are not kept: {error}", err=True)
        return None
    return target


def _question(record: Any) -> str:
    """Return what was asked, as text: the evaluation's settings, its inputs, and the number of rows."""
    values: Any = record if isinstance(record, dict) else {}
    config = values.get("config")
    config = config if isinstance(config, dict) else {}
    return json.dumps([config.get("eval"), config.get("input"), values.get("n")], sort_keys=True)


def write(record: dict[str, Any], target: Path) -> None:
    """Write a file completely or not at all. Raises PealmError."""
    aside = target.with_name(f".{target.name}.{os.urandom(6).hex()}.tmp")
    try:
        with aside.open("x", encoding="utf-8") as file:
            file.write(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise PealmError(f"{target} can't be written: {error.strerror}") from error


def check(path: Path) -> None:
    """Raise UserError if the results can't be written there, or would replace a file with anything else in it."""
    try:
        if not path.parent.is_dir():
            raise UserError(f"--output {path}: there is no folder {path.parent}")
        if path.exists() and not path.is_file():
            raise UserError(f"--output {path}: is not a regular file")
        text = path.read_bytes().strip() if path.exists() else b""
    except OSError as error:
        raise UserError(f"--output {path}: {error.strerror or error}") from None
    if text and not (text.startswith(b"{") and b'\n  "evaluation": ' in text):
        raise UserError(f"--output {path}: exists and is not a file of results; choose another name")
