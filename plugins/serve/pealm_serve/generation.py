"""Generate and score: the texts of a model grow together, a token of each in a pass."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pealm_core import LM, ContinuousBatch, Sampling, Stopper, stream_decoder

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


@dataclass(eq=False)
class _Request:
    """What was drawn for a request since its last turn: (row, whether it is its last token, token, logprob, top)."""

    top: int
    drawn: list[tuple[int, bool, int, float, list[tuple[int, float]]]] = field(default_factory=list)
    error: Exception | None = None


class Texts:
    """The texts that a model generates at the same time (continuous batching).

    Each request is an iterator, whose `next` calls are its turns: it takes its new tokens; if there are none, it runs
    a step for the requests that have no token yet, and then for all.
    """

    def __init__(self, lm: LM) -> None:
        self._lm, self._batch, self._requests = lm, ContinuousBatch(lm.model, graphs=lm.graphs), dict[Any, _Request]()
        self._new = list[Any]()  # rows that no step has run for

    def generate(
        self, ids: Sequence[int], sampling: Sampling, *, ends: Collection[int] | None = None, top: int = 0
    ) -> Iterator[list[Piece]]:
        """Yield the new pieces of all rows, at first none. Arguments as for `Engine.stream`."""
        if ends is None:
            ends = () if self._lm.eot_id is None else (self._lm.eot_id,)
        decoders = [stream_decoder(self._lm.tokenizer) for _ in range(sampling.num_samples)]
        stoppers, request = [Stopper(sampling.stop) for _ in decoders], _Request(top)
        rows = self._batch.add([ids], sampling)
        self._requests |= dict.fromkeys(rows, request)
        self._new += rows
        try:
            yield []  # others may add theirs before the next step
            while request.drawn or request.error or any(row.remaining > 0 for row in rows):
                while not (request.drawn or request.error):
                    self._step()
                if request.error is not None:
                    raise request.error
                pieces = []
                for number, last, token, logprob, likeliest in request.drawn:
                    stopper, ended = stoppers[number], token in ends
                    text = "" if ended else stopper.feed(decoders[number](token))
                    finish = _finish(ended or stopper.done, last)
                    text += stopper.flush() if finish else ""
                    pieces.append(Piece(number, text, token, logprob, likeliest[:top], finish))
                    if finish:
                        self._batch.end([rows[number]])
                request.drawn.clear()
                yield pieces
        finally:
            self._batch.end(rows)
            for row in rows:
                del self._requests[row]

    def _step(self) -> None:
        """Draw a token for each new row, or, if there are none, for each row of all requests."""
        new, self._new = [row for row in self._new if row.remaining > 0], []
        try:
            rows, ids, logits = self._batch.step(new)
            chosen, likeliest = logprobs_of(logits, ids, max(self._requests[row].top for row in rows))
        except Exception as error:
            for request in self._requests.values():
                request.error = error
            self._batch = ContinuousBatch(self._lm.model, graphs=self._lm.graphs)
            return
        for row, *drawn in zip(rows, ids.tolist(), chosen, likeliest, strict=True):
            self._requests[row].drawn.append((row.number, row.remaining == 0, *drawn))


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
