"""`pealm sample`: let a model write."""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from pealm_core.cli.components import ComponentCommand
from pealm_core.cli.given import checkpoint_config
from pealm_core.config.job import Job
from pealm_core.config.settings import DEVICES, Sampling
from pealm_core.contract.errors import UserError


@click.command(
    cls=ComponentCommand,
    flat={"sample": Sampling},
    components=("model", "tokenizer"),
    given=checkpoint_config,
)
@click.argument("model", required=False)
@click.option("--ckpt", metavar="PATH", help="A run (its best weights), a checkpoint folder or a file in one.")
@click.option("--tokenizer-dir", type=click.Path(path_type=Path), metavar="DIR", help="Another saved vocabulary.")
@click.option("--prompt", help="The text to go on from.")
@click.option(
    "--prompt-file", metavar="FILE", help="Read the prompt from a file, to its last byte; -: standard input."
)
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given several times.")
@click.option("--stream/--no-stream", default=True, help="Show the text as it comes (the default), or whole.")
@click.option("--json", "as_json", is_flag=True, help="Text, token ids, log-probabilities and timings, as JSON.")
@click.option("--stats", is_flag=True, help="On stderr: time to the first token, share of the memory's bandwidth.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="Where to compute.")
@click.option(
    "--dtype", type=click.Choice(("auto", "fp32", "bf16")), default="auto", help="Precision of the weights."
)
@click.option("--quantize", type=click.Choice(("int8",)), help="Smaller weights, rounded as they are loaded.")
def sample(
    job: Job,
    ckpt: str | None,
    tokenizer_dir: Path | None,
    prompt: str | None,
    prompt_file: str | None,
    stop: tuple[str, ...],
    stream: bool,
    as_json: bool,
    stats: bool,
    device: str,
    dtype: str,
    quantize: str | None,
    model: str | None,
) -> None:
    """Let MODEL, or the model of a checkpoint, write.

    \b
    pealm sample --ckpt runs/char-transformer/2026-11-22_10-15-30 --prompt "ROMEO:"
    pealm sample --ckpt PATH --temperature 0.8 --top-k 50 --num-samples 3
    """
    need_weights(job, ckpt)
    sampling: Sampling = job.configs["sample"]
    if "" in stop:
        raise UserError("--stop: an empty text would end every text before it begins; leave it out")
    sampling = dataclasses.replace(sampling, stop=stop or sampling.stop)
    if tokenizer_dir is not None and not tokenizer_dir.is_dir():
        raise UserError(f"--tokenizer-dir {tokenizer_dir}: no such folder")
    prompt = read_prompt(prompt, prompt_file)
    from pealm_core.inference.lm import Sample, open_job

    lm = open_job(job, ckpt, device=device, dtype=dtype, quantize=quantize, tokenizer_dir=tokenizer_dir)
    ids = lm.encode(prompt)  # a prompt that can't be encoded is an error before anything is shown
    clock = Clock()
    if sampling.num_samples == 1 and stream and not as_json:
        click.echo(prompt, nl=False)
        for _, piece in lm.write([ids], sampling, [Sample()], drawn=clock):
            click.echo(piece, nl=False)
        click.echo()
    else:
        samples = lm.samples([prompt], sampling, drawn=clock)
        if as_json:
            texts = [dataclasses.asdict(found) for found in samples]
            click.echo(json.dumps({"prompt": prompt, "samples": texts, "timings": clock.timings()}, indent=2))
        else:
            for number, found in enumerate(samples, 1):
                if sampling.num_samples > 1:
                    click.echo(f"--- {number} ---")
                click.echo(prompt + found.text)
    timings = clock.timings()
    click.echo(f"{timings['tokens']:,} tokens, {timings['tokens_per_second']:,.1f} tokens/s", err=True)
    if stats:
        click.echo(_stats(lm, timings), err=True)


class Clock:
    """Counts tokens as they are drawn, and the seconds that they take."""

    def __init__(self) -> None:
        self.tokens, self.began, self.first, self.last = 0, time.perf_counter(), 0.0, 0.0
        self.steps = 0

    def __call__(self, tokens: int) -> None:
        """Tokens were drawn just now."""
        self.last = time.perf_counter() - self.began
        self.first = self.first or self.last
        self.tokens += tokens
        self.steps += 1

    def timings(self) -> dict[str, Any]:
        """Tokens and seconds of it all; and steps, a token for each row, a second after the first."""
        return {
            "tokens": self.tokens,
            "seconds": self.last,
            "first_token_seconds": self.first,
            "tokens_per_second": self.tokens / self.last if self.last else 0.0,
            "steps_per_second": (self.steps - 1) / (self.last - self.first) if self.steps > 1 else 0.0,
        }


def _stats(lm: Any, timings: dict[str, Any]) -> str:
    from pealm_core.hardware.inference_weights import bytes_per_token, read_bandwidth

    device = next(lm.model.parameters()).device
    most, weights = read_bandwidth(device), bytes_per_token(lm.model)
    reads = weights * timings["steps_per_second"]
    return (
        f"first token after {1000 * timings['first_token_seconds']:,.1f} ms, then {timings['steps_per_second']:,.1f} "
        f"steps/s; each reads {weights / 1e6:,.1f} MB of weights: {reads / 1e9:,.2f} GB/s, "
        f"{100 * reads / most:,.0f} % of the measured {most / 1e9:,.1f} GB/s"
    )


def read_prompt(prompt: str | None, file: str | None) -> str:
    """The prompt as it is given, from a file, or from standard input ("-"). Raises UserError."""
    if file is None:
        return prompt or ""
    if prompt is not None:
        raise UserError("--prompt and --prompt-file: give one of them")
    try:
        return (sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompt-file {file}: can't be read: {error}") from None


def need_weights(job: Job, ckpt: str | None) -> None:
    """Raise UserError where neither a checkpoint nor the model itself brings weights."""
    entry = job.entries.get("model")
    if ckpt is None and (entry is None or entry.spec.pretrained is None):
        what = f"model {entry.name!r} has no weights of its own" if entry else "no model was named"
        raise UserError(f"{what}: give --ckpt PATH, a run or a checkpoint folder")
