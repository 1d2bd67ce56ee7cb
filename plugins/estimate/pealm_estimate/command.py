"""`pealm estimate`: what a run needs, before it is started."""

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import click

from pealm_core import ComponentCommand, TrainSettings, UserError

COMPONENTS = ("model", "tokenizer", "optimizer", "strategy")


@click.command(cls=ComponentCommand, flat={"train": TrainSettings}, components=COMPONENTS)
@click.argument("model", required=False)
@click.option("--config", metavar="FILE", help="TOML file with settings, for instance RUN/config.toml.")
@click.option("--preset", metavar="NAME", help="Named settings of the model.")
@click.option("--depth", metavar="N", help="Sizes, batch, rate and steps for N layers, as in `pealm train`.")
@click.option("--tokenizer", metavar="NAME", help="Tokenizer (default: the model's).")
@click.option("--optimizer", metavar="NAME", help="Optimizer (default: the model's, else adamw).")
@click.option("--strategy", metavar="NAME", help="How a model is spread over several processes (default: ddp).")
@click.option("--vocab-size", type=click.IntRange(min=1), help="Tokens of the vocabulary (default: the tokenizer's).")
@click.option(
    "--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, one for each GPU."
)
@click.option("--tflops", type=click.FloatRange(min=0, min_open=True), help="Peak TFLOP/s of another device.")
@click.option(
    "--mfu",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.4,
    show_default=True,
    help="Fraction of --tflops that the model reaches.",
)
@click.option("--price", type=click.FloatRange(min=0), help="Price of a process for an hour.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def estimate(
    job: Any,
    vocab_size: int | None,
    processes: int,
    tflops: float | None,
    mfu: float,
    price: float | None,
    as_json: bool,
    **sources: Any,
) -> None:
    """Estimate memory, speed, time and cost of `pealm train MODEL` with these options.

    \b
    pealm estimate gpt2 --batch-size 64 --micro-batch-size 8 --dtype bf16
    pealm estimate llama --preset 1b --processes 8 --strategy fsdp --tflops 989 --price 3

    Memory is counted on tensors without data. Speed is that of this machine: each operation of a step is timed by
    itself, without training. With --tflops it is that of another device: its peak times --mfu.
    """
    if "model" not in job.entries:
        raise UserError("estimate needs a model: pealm estimate MODEL")
    if job.configs["train"].batch_size % processes:
        raise UserError(f"--batch-size {job.configs['train'].batch_size} is not divisible by --processes {processes}")
    from pealm_estimate.run import facts, lines

    size = vocab_size or vocabulary(job)
    job = replace(job, configs={**job.configs, "model": replace(job.configs["model"], vocab_size=size)})
    found = facts(job, processes=processes, tflops=tflops, mfu=mfu, price=price)
    click.echo(json.dumps(found) if as_json else "\n".join(lines(found)))


def vocabulary(job: Any) -> int:
    """Return the number of tokens of the job's tokenizer. Raises UserError if it has to be fitted first."""
    name = job.entries["tokenizer"].name
    if (size := getattr(job.configs["tokenizer"], "vocab_size", None)) is not None:
        return int(size)
    from pealm_core import make_tokenizer

    with suppress(AttributeError, TypeError, ValueError):
        if (size := int(make_tokenizer(job).vocab_size)) > 0:
            return size
    raise UserError(f"the tokenizer {name} learns its vocabulary from the text: give --vocab-size")
