"""A command that shows, and keeps, the hidden states and attention of a trained model for one prompt.

    pealm --plugin examples/look_inside.py look-inside "ROMEO: But" --ckpt runs/gpt2 --out inside.safetensors

It works with any model that has `layers` and the core's `causal_attention`. The file has `hidden` (L + 1, T, C) and
`attention` (L, H, T, T). `pealm serve` shows the same in a browser.
"""

from pathlib import Path

import click
from safetensors.torch import save_file

from pealm_core import CommandSpec, UserError, hookimpl, load


@click.command()
@click.argument("prompt")
@click.option("--ckpt", type=click.Path(path_type=Path), required=True, help="Run or checkpoint.")
@click.option("--out", type=click.Path(path_type=Path), help="File for all of it, .safetensors.")
def look_inside(prompt, ckpt, out):
    """Show what each layer does with PROMPT."""
    lm = load(ckpt, device="cpu", dtype="fp32")
    trace = lm.trace(lm.encode(prompt)[: lm.model.config.block_size])
    if trace.hidden is None or trace.attention is None:
        raise UserError(f"{ckpt}: the model has no `layers`, or its attention is not `causal_attention`")
    for layer, weights in enumerate(trace.attention):
        state, guess = trace.hidden[layer + 1], trace.top(1, layer + 1)[-1][0]
        click.echo(f"layer {layer}: mean norm of the hidden states {state.norm(dim=-1).mean():.2f}")
        click.echo(f"  it would continue with {lm.tokenizer.decode([guess[0]])!r} ({guess[1]:.0%})")
        for head, row in enumerate(weights[:, -1]):  # what the last token attends to
            most = int(row.argmax())
            click.echo(f"  head {head}: {row[most]:.0%} on {trace.tokens[most]!r} (token {most})")
    if out:
        save_file({"hidden": trace.hidden, "attention": trace.attention}, out)
        click.echo(f"{out}: hidden {tuple(trace.hidden.shape)}, attention {tuple(trace.attention.shape)}")


@hookimpl
def pealm_commands():
    yield CommandSpec(name="look-inside", summary="Hidden states and attention", command=look_inside)
