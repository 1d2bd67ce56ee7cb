"""A command that shows, and keeps, the hidden states and attention of a trained model for one prompt.

    pealm --plugin examples/look_inside.py look-inside "ROMEO: But" --ckpt runs/gpt2 --out inside.safetensors

It works with any model whose blocks are in an `nn.ModuleList` and whose attention is torch's, `causal_attention`
included. The file has `hidden.0` (T, C) and `attention.0` (H, T, T), and so on for each block.
"""

from pathlib import Path

import click
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from pealm_core import CommandSpec, UserError, hookimpl, load


class Attention(TorchFunctionMode):
    """While it is active, keep the weights of each attention, which torch itself never returns."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            q, k, mask = *args[:2], kwargs.get("attn_mask")  # (1, H, T, D)
            scores = q @ k.transpose(-2, -1) * kwargs.get("scale", q.shape[-1] ** -0.5)
            if kwargs.get("is_causal"):
                mask = torch.ones_like(scores, dtype=torch.bool).tril()
            if mask is not None:
                scores = scores.masked_fill(~mask, -torch.inf)
            self.weights.append(scores.softmax(-1)[0])
        return func(*args, **kwargs)


@torch.inference_mode()
def look(model, ids):
    """Return the hidden state after each block, (T, C), and each block's attention, (H, T, T)."""
    hidden, hooks = [], []

    def keep(module, args, output):
        hidden.append((output[0] if isinstance(output, tuple) else output)[0])

    blocks = next((module for module in model.modules() if isinstance(module, nn.ModuleList)), ())
    for block in blocks:
        hooks.append(block.register_forward_hook(keep))
    with Attention() as attention:
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return hidden, attention.weights


@click.command()
@click.argument("prompt")
@click.option("--ckpt", type=click.Path(path_type=Path), required=True, help="Run or checkpoint.")
@click.option("--out", type=click.Path(path_type=Path), help="File for all of it, .safetensors.")
def look_inside(prompt, ckpt, out):
    """Show what each block does with PROMPT."""
    lm = load(ckpt, device="cpu", dtype="fp32")
    ids = lm.encode(prompt)[: lm.model.config.block_size]
    hidden, attention = look(lm.model, ids)
    if not hidden:
        raise UserError(f"{ckpt}: the model has no nn.ModuleList of blocks")
    for number, state in enumerate(hidden):
        click.echo(f"block {number}: mean norm of the hidden states {state.norm(dim=-1).mean():.2f}")
        for head, weights in enumerate(attention[number] if number < len(attention) else ()):
            most = int(weights[-1].argmax())  # what the last token attends to
            click.echo(
                f"  head {head}: {weights[-1, most]:.0%} on {lm.tokenizer.decode([ids[most]])!r} (token {most})"
            )
    if out:
        tensors = {f"hidden.{i}": state for i, state in enumerate(hidden)}
        save_file({**tensors, **{f"attention.{i}": weights for i, weights in enumerate(attention)}}, out)
        click.echo(f"{out}: {', '.join(tensors)}, ...")


@hookimpl
def pealm_commands():
    yield CommandSpec(name="look-inside", summary="Hidden states and attention", command=look_inside)
