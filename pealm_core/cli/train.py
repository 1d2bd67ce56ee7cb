"""`pealm train`: train a model, or resume a run."""

import json
import re
from pathlib import Path
from typing import Any

import click

from pealm_core.cli.components import ComponentCommand
from pealm_core.cli.sample import BASE
from pealm_core.config.resolve_job import TRAINING, Job, check_training
from pealm_core.config.settings import TrainSettings
from pealm_core.config.toml_layers import option_name
from pealm_core.hardware.launch import launched


@click.command(cls=ComponentCommand, flat={"train": TrainSettings}, components=TRAINING)
@click.argument("model", required=False)
@click.option("--out", type=click.Path(path_type=Path), metavar="RUN", help="Run folder; resumes if it exists.")
@click.option("--config", metavar="FILE", help="TOML file with settings, for instance RUN/config.toml.")
@click.option("--preset", metavar="NAME", help="Named settings of the model: sizes and tuned hyperparameters.")
@click.option("--depth", metavar="N", help="Set sizes, batch, rate and steps for N layers, compute-optimally.")
@click.option("--tokenizer", metavar="NAME", help="Tokenizer (default: that of --init, else the model's).")
@click.option("--tokenizer-dir", metavar="DIR", help="Use the tokenizer of this run, checkpoint or folder of shards.")
@click.option("--optimizer", metavar="NAME", help="Optimizer (default: the model's, else adamw).")
@click.option("--schedule", metavar="NAME", help="Learning-rate schedule (default: the model's, else cosine).")
@click.option("--objective", metavar="NAME", help="What training minimizes (default: next-token).")
@click.option("--strategy", metavar="NAME", help="How a model is spread over several processes (default: ddp).")
@click.option("--adapter", metavar="NAME", help="Adapter that is trained instead of the model's weights.")
@click.option("--base", type=click.Path(path_type=Path), metavar="PATH", help=BASE)
@click.option("--print-config", is_flag=True, help="Print the config and where each value comes from, then exit.")
def train(job: Job, out: Path | None, base: Path | None, print_config: bool, **sources: Any) -> None:
    """Train MODEL on an input.

    \b
    pealm train char-bigram --input.tinyshakespeare
    pealm train char-transformer --input.text book.txt --steps 5000
    pealm train --out runs/char-bigram/2026-11-22_10-15-30    (resumes)

    `pealm train MODEL --input.NAME --help` lists the settings of this model and input.
    """
    job = job if base is None else job.with_base(base)
    if print_config:
        click.echo(explain(job))
        return
    check_training(job, launched()[1])
    if sources["depth"] and launched()[0] == 0:
        click.echo(chosen_by(job, f"preset depth-{sources['depth']}"))
    from pealm_core.training.train import train as run_training

    _, code = run_training(job, out)
    click.get_current_context().exit(code)


def chosen_by(job: Job, preset: str) -> str:
    """Return a table of what a preset has set, and of the tokens that the run reads."""
    rows = [(t, job.rows(t)) for t in job.configs]
    chosen = {option_name(t, k): str(v) for t, row in rows for k, (v, origin) in row.items() if origin == preset}
    s, block = job.configs["train"], job.configs["model"].block_size
    if s.steps:
        chosen["tokens"] = f"{s.steps * s.batch_size * (s.block_size or block):,}"
    return "\n".join(f"{preset.removeprefix('preset ')}  {option:<20} {value}" for option, value in chosen.items())


def explain(job: Job) -> str:
    """Return the config and where each value comes from, as TOML with comments."""
    lines, tables = list[str](), [(table, job.rows(table)) for table in job.configs]
    if job.files:
        tables.append(("plugins", {"files": (job.files, "")}))
    for table, rows in tables:
        if table == "model":
            rows.pop("vocab-size", None)  # the tokenizer's, which is not known yet
        texts = []
        for key, (value, origin) in rows.items():
            quoted = key if re.fullmatch(r"[\w-]+", key) else json.dumps(key)
            texts.append((f"{quoted} = {json.dumps(value, ensure_ascii=False)}", origin))
        width = max((len(text) for text, _ in texts), default=0)
        head = "[[input]]" if table in job.weights else f"[{table}]"
        if table == "model" and job.configs["train"].init:
            head += "  # --init brings the settings of its weights, instead of the defaults below"
        lines += [head, *(f"{text:<{width}}  # {origin}".rstrip(" #") for text, origin in texts), ""]
    return "\n".join(lines).rstrip()
