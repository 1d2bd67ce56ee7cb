"""`pealm sample`: let a model write."""

import time
from pathlib import Path

import click

from pealm_core.cli.components import ComponentCommand
from pealm_core.cli.given import checkpoint_config
from pealm_core.errors import UserError
from pealm_core.job import Job
from pealm_core.settings import DEVICES, Sampling


@click.command(
    cls=ComponentCommand,
    flat={"sample": Sampling},
    components=("model", "tokenizer"),
    given=checkpoint_config,
)
@click.argument("model", required=False)
@click.option("--ckpt", metavar="PATH", help="A run (its best weights), a checkpoint folder or a file in one.")
@click.option("--tokenizer-dir", type=click.Path(path_type=Path), metavar="DIR", help="Another saved vocabulary.")
@click.option("--prompt", default="", help="The text to go on from.")
@click.option("--stream/--no-stream", default=True, help="Show the text as it comes (the default), or whole.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="Where to compute.")
def sample(
    job: Job,
    ckpt: str | None,
    tokenizer_dir: Path | None,
    prompt: str,
    stream: bool,
    device: str,
    model: str | None,
) -> None:
    """Let MODEL, or the model of a checkpoint, write.

    \b
    pealm sample --ckpt runs/char-transformer/2026-11-22_10-15-30 --prompt "ROMEO:"
    pealm sample --ckpt PATH --temperature 0.8 --top-k 50 --num-samples 3
    """
    need_weights(job, ckpt)
    sampling: Sampling = job.configs["sample"]
    if tokenizer_dir is not None and not tokenizer_dir.is_dir():
        raise UserError(f"--tokenizer-dir {tokenizer_dir}: no such folder")
    from pealm_core.lm import open_job

    lm = open_job(job, ckpt, device=device, tokenizer_dir=tokenizer_dir)
    began, drawn = time.perf_counter(), sampling.num_samples * sampling.max_new_tokens
    if sampling.num_samples == 1 and stream:
        lm.encode(prompt)  # a prompt that can't be encoded is an error before anything is shown
        click.echo(prompt, nl=False)
        for piece in lm.stream(prompt, sampling):
            click.echo(piece, nl=False)
        click.echo()
    else:
        for number, text in enumerate(lm.generate_batch(prompt, sampling), 1):
            if sampling.num_samples > 1:
                click.echo(f"--- {number} ---")
            click.echo(text)
    seconds = time.perf_counter() - began
    click.echo(f"{drawn:,} tokens, {drawn / seconds:,.1f} tokens/s", err=True)


def need_weights(job: Job, ckpt: str | None) -> None:
    """Raise UserError where neither a checkpoint nor the model itself brings weights."""
    entry = job.entries.get("model")
    if ckpt is None and (entry is None or entry.spec.pretrained is None):
        what = f"model {entry.name!r} has no weights of its own" if entry else "no model was named"
        raise UserError(f"{what}: give --ckpt PATH, a run or a checkpoint folder")
