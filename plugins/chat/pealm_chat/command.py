"""`pealm chat`."""

from pathlib import Path
from typing import Any

import click

from pealm_core import Sampling, UserError


@click.command()
@click.option(
    "--ckpt", metavar="PATH", required=True, help="Run (its best weights), checkpoint folder or file in one."
)
@click.option("--base", metavar="PATH", help="Base weights of an adapter, if they have moved.")
@click.option("--system", metavar="TEXT", help="System message: instructions before the first turn.")
@click.option("-n", "--max-new-tokens", type=click.IntRange(1), default=500, help="Longest answer, in tokens.")
@click.option("--temperature", type=click.FloatRange(0), default=0.7, help="0: greedy (default: 0.7).")
@click.option("--top-k", type=click.IntRange(1), help="Sample from the k most likely tokens.")
@click.option("--top-p", type=click.FloatRange(1e-6, 1), help="Sample from the top tokens with this probability.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Random seed; the same seed, the same answers.")
@click.option("--device", type=click.Choice(("auto", "cpu", "cuda", "mps")), default="auto", help="Device to use.")
@click.option(
    "--dtype", type=click.Choice(("auto", "fp32", "bf16")), default="auto", help="Precision of the weights."
)
@click.option("--quantize", type=click.Choice(("int8", "int4")), help="Quantize the weights while loading.")
def chat(
    ckpt: str, base: str | None, system: str | None, device: str, dtype: str, quantize: str | None, **how: Any
) -> None:
    """Chat with a model that was trained on conversations.

    \b
    pealm chat --ckpt runs/talk
    pealm chat --ckpt runs/talk --system "Answer in one word." < questions.txt

    In a terminal: /reset forgets the conversation, /undo the last turn, /save FILE writes it, Ctrl-C stops an answer,
    Ctrl-D ends the chat. Otherwise each line of standard input is a message or a command, and answers are printed.
    """
    try:
        sampling = Sampling(**how)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    from pealm_chat.conversation import Conversation, need_layout
    from pealm_chat.loop import converse
    from pealm_core import load

    lm = load(ckpt, device=device, dtype=dtype, quantize=quantize, base=base and Path(base))
    need_layout(lm, ckpt)
    converse(Conversation(lm, sampling, system))
