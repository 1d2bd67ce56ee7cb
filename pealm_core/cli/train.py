"""`pealm train`: train a model, or go on with a run."""

from pathlib import Path

import click

from pealm_core.cli.components import ComponentCommand
from pealm_core.cli.given import config_or_run
from pealm_core.config.job import Job
from pealm_core.config.settings import TrainSettings
from pealm_core.contract.errors import UserError
from pealm_core.hardware.launch import launched


@click.command(
    cls=ComponentCommand,
    flat={"train": TrainSettings},
    components=("model", "input", "tokenizer", "optimizer"),
    given=config_or_run,
)
@click.argument("model", required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="The run's folder; one that is there goes on.",
)
@click.option("--config", metavar="FILE", help="A TOML file with settings, for instance RUN/config.toml.")
@click.option("--preset", metavar="NAME", help="Named settings of the model: sizes, and what it learns best by.")
@click.option("--tokenizer", metavar="NAME", help="Another tokenizer than the model's usual one.")
@click.option("--optimizer", metavar="NAME", help="Another optimizer than the model's usual one (or than AdamW).")
@click.option("--print-config", is_flag=True, help="Print every setting and where it comes from, and stop.")
def train(
    job: Job,
    out: Path | None,
    print_config: bool,
    model: str | None,
    config: str | None,
    preset: str | None,
    tokenizer: str | None,
    optimizer: str | None,
) -> None:
    """Train MODEL on an input.

    \b
    pealm train char-bigram --input.tinyshakespeare
    pealm train char-transformer --input.text book.txt --steps 5000
    pealm train --out runs/char-bigram/2026-11-22_10-15-30    (goes on)

    `pealm train MODEL --input.NAME --help` shows the settings of just these.
    """
    if print_config:
        click.echo(job.explain())
        return
    for table, what in (
        ("model", "a model: pealm train MODEL"),
        ("input", "an input: --input.NAME, see --help"),
    ):
        if table not in job.entries:
            raise UserError(f"train needs {what}")
    model_entry = job.entries["model"]
    if model_entry.spec.pretrained is not None:
        family = model_entry.spec.family or "its family"
        raise UserError(f"{model_entry.name} is trained as {family}: pealm train {family} --init {model_entry.name}")
    job.configs  # noqa: B018 (every mistake in the settings shows before torch is loaded)
    check_sizes(job.configs["train"], launched()[1])
    from pealm_core.training.train import train as run_training

    click.get_current_context().exit(run_training(job, out))


def check_sizes(s: TrainSettings, world_size: int) -> None:
    """Raise UserError where processes and micro-batches don't divide the batch."""
    if s.batch_size % world_size:
        below = max(s.batch_size // world_size, 1) * world_size
        raise UserError(f"--batch-size {s.batch_size} is not divisible by {world_size} processes; try {below}")
    share = s.batch_size // world_size
    if s.micro_batch_size is not None and s.micro_batch_size < share and share % s.micro_batch_size:
        fits = [n for n in range(1, share + 1) if share % n == 0]
        near = min(fits, key=lambda n: abs(n - s.micro_batch_size))  # type: ignore[operator]
        each = f" ({share} for each of {world_size} processes)" if world_size > 1 else ""
        raise UserError(
            f"--micro-batch-size {s.micro_batch_size} does not divide --batch-size {s.batch_size}{each}; try {near}"
        )
