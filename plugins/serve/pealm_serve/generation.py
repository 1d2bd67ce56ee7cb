"""Generate and score: the texts of a model grow together, a token of each in a pass."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pealm_core import LM, ContinuousBatch, Sampling, Stopper, stream_decoder

CHUNK = 64  # positions of a prompt whose log-probabilities are in memory at a time


Finish = Literal["stop", "length"] | None


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
    finish: Finish = None
    made: bool = True


class Texts:
    """The texts that a model generates at the same time (continuous batching).

    Each request is an iterator, whose `next` calls are its turns in the engine. The first one that asks for more than
    there is runs a step for all.
    """

    def __init__(self, lm: LM) -> None:
        self._lm, self._batch, self._rows = lm, ContinuousBatch(lm.model, graphs=lm.graphs), dict[Any, _Text]()

    def generate(
        self, ids: Sequence[int], sampling: Sampling, *, ends: Collection[int] | None = None, top: int = 0
    ) -> Iterator[list[Piece]]:
        """Yield new pieces, one for each row and token; none at first. Arguments as for `Engine.stream`."""
        if ends is None:
            ends = () if self._lm.eot_id is None else (self._lm.eot_id,)
        texts = [_Text(number, self._lm, sampling, ends, top) for number in range(sampling.num_samples)]
        rows = self._batch.add([ids], sampling)
        self._rows |= zip(rows, texts, strict=True)
        try:
            yield []  # other requests may begin before the next step
            while (pieces := [p for text in texts for p in text.take()]) or any(row.remaining > 0 for row in rows):
                if pieces:
                    yield pieces
                else:
                    self._step()
        finally:
            for row in rows:
                del self._rows[row]
            self._batch.end(rows)

    def _step(self) -> None:
        """Add a token to every text, or an error that keeps it from growing."""
        try:
            rows, ids, logits = self._batch.step()
            chosen, likeliest = logprobs_of(logits, ids, max(self._rows[row].top for row in rows))
        except Exception as error:
            for text in self._rows.values():
                text.error = error
            self._batch = ContinuousBatch(self._lm.model, graphs=self._lm.graphs)
            return
        for row, token, logprob, best in zip(rows, ids.tolist(), chosen, likeliest, strict=True):
            if self._rows[row].add(token, logprob, best, last=row.remaining == 0):
                self._batch.end([row])


class _Text:
    """The text of a row; its pieces until the request takes them."""

    def __init__(self, row: int, lm: LM, sampling: Sampling, ends: Collection[int], top: int) -> None:
        self._row, self._ends, self.top = row, ends, top
        self._decoder, self._stopper = stream_decoder(lm.tokenizer), Stopper(sampling.stop)
        self._pieces = list[Piece]()
        self.error: Exception | None = None

    def take(self) -> list[Piece]:
        """Return the new pieces, or raise the error."""
        if self.error is not None:
            raise self.error
        pieces, self._pieces = self._pieces, []
        return pieces

    def add(self, token: int, logprob: float, likeliest: list[tuple[int, float]], *, last: bool) -> bool:
        """Add a token; return whether the text has ended."""
        try:
            ended = token in self._ends
            text = "" if ended else self._stopper.feed(self._decoder(token))
            finish: Finish = "stop" if ended or self._stopper.done else "length" if last else None
            text += self._stopper.flush() if finish else ""
            self._pieces.append(Piece(self._row, text, token, logprob, likeliest[: self.top], finish))
            return finish is not None
        except Exception as error:  # the tokenizer's
            self.error = error
            return True


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
