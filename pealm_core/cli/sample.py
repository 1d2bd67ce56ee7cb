"""`pealm sample`: generate text."""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from pealm_core.cli.components import ComponentCommand
from pealm_core.config.resolve_job import Job
from pealm_core.config.settings import DEVICES, Sampling
from pealm_core.config.toml_layers import read_regular
from pealm_core.contract.errors import UserError

BASE = "Base weights of an adapter, if they have moved."
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(cls=ComponentCommand, flat={"sample": Sampling}, components=("model", "tokenizer"))
@click.argument("model", required=False)
@click.option("--ckpt", metavar="PATH", help="Run (its best weights), checkpoint folder or file in one.")
@click.option("--base", type=click.Path(path_type=Path), metavar="PATH", help=BASE)
@click.option("--tokenizer-dir", type=FOLDER, metavar="DIR", help="Use the saved tokenizer of this folder.")
@click.option("--prompt", help="Text to continue.")
@click.option("--prompt-file", metavar="FILE", help="Read the prompt from a file; -: from standard input.")
@click.option("--stop", multiple=True, metavar="TEXT", help="Stop before this text; repeatable.")
@click.option(
    "--stream/--no-stream", default=True, help="Print text as it is generated (the default), or at the end."
)
@click.option("--json", "as_json", is_flag=True, help="Print text, token ids, log-probabilities and timings as JSON.")
@click.option("--stats", is_flag=True, help="Print time to the first token and memory bandwidth to stderr.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="Device to use.")
@click.option(
    "--dtype",
    type=click.Choice(("auto", "fp32", "bf16")),
    default="auto",
    help="Precision of the weights; auto: bf16 where it is fast.",
)
@click.option("--quantize", type=click.Choice(("int8", "int4")), help="Quantize the weights while loading.")
def sample(
    job: Job,
    ckpt: str | None,
    prompt: str | None,
    prompt_file: str | None,
    stop: tuple[str, ...],
    stream: bool,
    as_json: bool,
    stats: bool,
    **how: Any,
) -> None:
    """Generate text with MODEL or the model of a checkpoint.

    \b
    pealm sample --ckpt runs/char-transformer/2026-11-22_10-15-30 --prompt "ROMEO:"
    pealm sample --ckpt PATH --temperature 0.8 --top-k 50 --num-samples 3
    """
    entry = job.entries.get("model")
    if ckpt is None and (entry is None or entry.spec.pretrained is None):
        what = f"model {entry.name!r} has no weights of its own" if entry else "no model was named"
        raise UserError(f"{what}: give --ckpt PATH, a run or a checkpoint folder")
    sampling: Sampling = job.configs["sample"]
    try:
        sampling = dataclasses.replace(sampling, stop=stop or sampling.stop)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    prompt = read_prompt(prompt, prompt_file)
    from pealm_core.inference.lm import Sample, load

    lm = load(ckpt, job=job, **how)  # base, device, dtype, quantize, tokenizer_dir
    ids = lm.encode(prompt)  # a prompt that can't be encoded is an error before anything is shown
    clock = Clock()
    if sampling.num_samples == 1 and stream and not as_json:
        _echo(prompt, nl=False)
        for _, piece in lm.write([ids], sampling, [Sample()], drawn=clock):
            _echo(piece, nl=False)
        click.echo()
    elif as_json:
        texts = [dataclasses.asdict(drawn) for drawn in lm.samples([prompt], sampling, drawn=clock)]
        click.echo(json.dumps({"prompt": prompt, "samples": texts, "timings": clock.timings()}, indent=2))
    else:
        for number, drawn in enumerate(lm.samples([prompt], sampling, drawn=clock), 1):
            _echo((f"--- {number} ---\n" if sampling.num_samples > 1 else "") + prompt + drawn.text)
    timings = clock.timings()
    click.echo(f"{timings['tokens']:,} tokens, {timings['tokens_per_second']:,.1f} tokens/s", err=True)
    if stats:
        click.echo(_stats(lm.model, timings), err=True)


def _echo(text: str, *, nl: bool = True) -> None:
    """Print a model's text. A terminal doesn't get the characters that would control it."""
    if sys.stdout.isatty():
        text = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    click.echo(text, nl=nl)


class Clock:
    """Counts drawn tokens, and notes when each step ended, in seconds."""

    def __init__(self) -> None:
        self.tokens, self.started, self.ended = 0, time.perf_counter(), list[float]()

    def __call__(self, tokens: int) -> None:
        """Count tokens that were just drawn."""
        self.tokens += tokens
        self.ended.append(time.perf_counter() - self.started)

    def timings(self) -> dict[str, Any]:
        """Return tokens, seconds and rates. A step draws one token for each row; its rate leaves out the first."""
        first, last = (self.ended or [0.0])[0], (self.ended or [0.0])[-1]
        return {
            "tokens": self.tokens,
            "seconds": last,
            "first_token_seconds": first,
            "tokens_per_second": self.tokens / last if last else 0.0,
            "steps_per_second": (len(self.ended) - 1) / (last - first) if last > first else 0.0,
        }


def _stats(model: Any, timings: dict[str, Any]) -> str:
    from pealm_core.hardware.inference_weights import bytes_per_token, read_bandwidth

    most, weights = read_bandwidth(next(model.parameters()).device), bytes_per_token(model)
    reads = weights * timings["steps_per_second"]
    return (
        f"first token after {1000 * timings['first_token_seconds']:,.1f} ms, then {timings['steps_per_second']:,.1f} "
        f"steps/s; each reads {weights / 1e6:,.1f} MB of weights: {reads / 1e9:,.2f} GB/s, "
        f"{100 * reads / most:,.0f} % of the measured {most / 1e9:,.1f} GB/s"
    )


def read_prompt(prompt: str | None, file: str | None) -> str:
    """Return the prompt from the option, a file or standard input ("-"). Raises UserError."""
    if file is None:
        return prompt or ""
    if prompt is not None:
        raise UserError("--prompt and --prompt-file: give one of them")
    if file == "-" and sys.stdin is None:
        raise UserError("--prompt-file -: standard input is closed")
    try:
        return (sys.stdin.buffer.read() if file == "-" else read_regular(Path(file))).decode("utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"--prompt-file {file}: can't be read: {error}") from None
