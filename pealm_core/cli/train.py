"""`pealm train`: train a model, or resume a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.cli.components import ComponentCommand
from pealm_core.config.job import Job
from pealm_core.config.layers import Layer, file_layer
from pealm_core.config.settings import TrainSettings
from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import settings_of
from pealm_core.hardware.launch import launched


def config_or_run(params: Mapping[str, Any]) -> Layer | None:
    """Return the config of `--config`, else that of an existing run in `--out`."""
    if params.get("config"):
        return file_layer(Path(params["config"]))
    saved = Path(params["out"]) / checkpoint.CONFIG if params.get("out") else None
    return file_layer(saved) if saved and saved.exists() else None


@click.command(
    cls=ComponentCommand,
    flat={"train": TrainSettings},
    components=("model", "input", "tokenizer", "optimizer"),
    config_file=config_or_run,
)
@click.argument("model", required=False)
@click.option("--out", type=click.Path(path_type=Path), metavar="RUN", help="Run folder; resumes if it exists.")
@click.option("--config", metavar="FILE", help="TOML file with settings, for instance RUN/config.toml.")
@click.option("--preset", metavar="NAME", help="Named settings of the model: sizes and tuned hyperparameters.")
@click.option("--tokenizer", metavar="NAME", help="Tokenizer (default: the model's).")
@click.option("--optimizer", metavar="NAME", help="Optimizer (default: the model's, else adamw).")
@click.option("--print-config", is_flag=True, help="Print every setting and where it comes from, then exit.")
def train(job: Job, out: Path | None, print_config: bool, **named: Any) -> None:
    """Train MODEL on an input.

    \b
    pealm train char-bigram --input.tinyshakespeare
    pealm train char-transformer --input.text book.txt --steps 5000
    pealm train --out runs/char-bigram/2026-11-22_10-15-30    (resumes)

    `pealm train MODEL --input.NAME --help` lists the settings of this model and input.
    """
    if print_config:
        click.echo(explain(job))
        return
    if "model" not in job.entries:
        raise UserError("train needs a model: pealm train MODEL")
    if "input" not in job.entries:
        raise UserError("train needs an input: --input.NAME, see --help")
    entry = job.entries["model"]
    if entry.spec.pretrained is not None:
        family = entry.spec.family or "its family"
        raise UserError(f"{entry.name} is trained as {family}: pealm train {family} --init {entry.name}")
    check_sizes(job.configs["train"], launched()[1])
    from pealm_core.training.train import train as run_training

    click.get_current_context().exit(run_training(job, out))


def check_sizes(s: TrainSettings, world_size: int) -> None:
    """Raise UserError unless the processes and micro-batches divide the batch."""
    if s.batch_size % world_size:
        below = max(s.batch_size // world_size, 1) * world_size
        raise UserError(f"--batch-size {s.batch_size} is not divisible by {world_size} processes; try {below}")
    local, micro = s.batch_size // world_size, s.micro_batch_size
    if micro is not None and micro < local and local % micro:
        distances = range(min(local, 1_000_000))
        near = next((n for d in distances for n in (micro - d, micro + d) if n > 0 and local % n == 0), 1)
        each = f" ({local} for each of {world_size} processes)" if world_size > 1 else ""
        raise UserError(f"--micro-batch-size {micro} does not divide --batch-size {s.batch_size}{each}; try {near}")


def explain(job: Job) -> str:
    """Return every setting and where it comes from, as TOML with comments."""
    lines, tables = [], job.tables()
    for table, config in job.configs.items():
        kind: type | None = None if config is None else type(config)
        entry, rows = job.entries.get(table), []
        names = {"name": f"{entry.plugin.dist} {entry.plugin.version}"} if entry else {}
        if entry and table == "input":
            names = {entry.name: job.origins[table].get(entry.spec.value, "")}
        for key, origin in names.items():
            rows.append((f"{_key(key)} = {_toml(tables[table][key])}", origin))
        for item in settings_of(kind).values():
            if item.hidden or (entry and table == "input" and item.name == entry.spec.value):
                continue
            value = tables[table].get(item.key)
            text = f"# {item.key} is not set" if value is None else f"{item.key} = {_toml(value)}"
            rows.append((text, job.origins[table][item.name]))
        width = max((len(text) for text, _ in rows), default=0)
        lines += [f"[{table}]", *(f"{text:<{width}}  # {origin}".rstrip(" #") for text, origin in rows), ""]
    return "\n".join(lines).rstrip()


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() else json.dumps(key)


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False)
