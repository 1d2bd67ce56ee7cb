"""Generate and score token by token: the iterators whose steps are the turns of the engine."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from pealm_core import LM, Sampling, Stopper, generate_steps, stream_decoder

CHUNK = 64  # positions of a prompt whose log-probabilities are in memory at a time


@dataclass(frozen=True)
class Piece:
    """One token of one row.

    text: what can be shown now, without stop strings and halves of characters; it may be "" or belong to earlier
    tokens. logprob: of the token (nats), before temperature and the other settings; None: of the first token of a
    prompt, which nothing precedes. top: (id, logprob) of the likeliest tokens, most likely first. finish: "stop" with
    the last piece of a row that ended by itself, "length" if it was cut. A token that ends a text is listed, and its
    text is not. made: whether it was generated; False: it is of a prompt.
    """

    row: int
    text: str
    id: int
    logprob: float | None
    top: list[tuple[int, float]] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None
    made: bool = True


def generate(
    lm: LM, ids: Sequence[int], sampling: Sampling, *, ends: Collection[int] | None = None, top: int = 0
) -> Iterator[list[Piece]]:
    """Yield the pieces of each step: one for every row that is not finished. Arguments as for `Engine.stream`."""
    if ends is None:
        ends = () if lm.eot_id is None else (lm.eot_id,)
    decoders = [stream_decoder(lm.tokenizer) for _ in range(sampling.num_samples)]
    stoppers = [Stopper(sampling.stop) for _ in decoders]
    active = set(range(sampling.num_samples))
    steps = generate_steps(lm.model, [ids], sampling, graphs=lm.graphs, active=active)
    for step, (drawn, logits) in enumerate(steps, 1):
        chosen, likeliest = logprobs_of(logits, drawn, top)
        tokens, pieces = drawn.tolist(), []
        for place, (row, token) in enumerate(zip(sorted(active), tokens, strict=True)):
            stopper = stoppers[row]
            ended = token in ends
            text = "" if ended else stopper.feed(decoders[row](token))
            finish = _finish(ended or stopper.done, step == sampling.max_new_tokens)
            text += stopper.flush() if finish else ""
            pieces.append(Piece(row, text, token, chosen[place], likeliest[place], finish))
            if finish:
                active.discard(row)
        yield pieces


def _finish(ended: bool, last: bool) -> Literal["stop", "length"] | None:
    return "stop" if ended else "length" if last else None


@torch.inference_mode()
def score_prompt(lm: LM, ids: Sequence[int], top: int = 0) -> list[Piece]:
    """Return a piece for each token of a prompt, at most block_size of them, with "" as its text."""
    idx = torch.tensor([[*ids]], device=next(lm.model.parameters()).device)  # (1, T)
    logits, _ = lm.model(idx)  # (1, T, V)
    pieces = [Piece(0, "", int(ids[0]), None, made=False)]
    for start in range(0, len(ids) - 1, CHUNK):
        targets = idx[0, start + 1 : start + 1 + CHUNK]
        chosen, likeliest = logprobs_of(logits[0, start : start + len(targets)], targets, top)
        rows = zip(targets.tolist(), chosen, likeliest, strict=True)
        pieces += [Piece(0, "", token, logprob, best, made=False) for token, logprob, best in rows]
    return pieces


def logprobs_of(logits: Tensor, ids: Tensor, top: int) -> tuple[list[float], list[list[tuple[int, float]]]]:
    """Return the log-probability of an id in each row, and its `top` likeliest ids: logits (B, V), ids (B,)."""
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(1, ids[:, None])[:, 0].tolist()
    best = logprobs.topk(min(top, logprobs.shape[-1]))
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return chosen, [[*zip(places, values, strict=True)] for places, values in rows]
