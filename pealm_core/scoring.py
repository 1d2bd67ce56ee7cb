"""Log-likelihoods of continuations: what every evaluator stands on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

Request = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class Score:
    """log_prob: nats, summed over the continuation's tokens; greedy: whether it is what argmax would write."""

    log_prob: float
    tokens: int
    greedy: bool


@torch.inference_mode()
def score(
    model: Any,
    requests: Sequence[Request],
    *,
    batch_tokens: int = 8192,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Score]:
    """Score each (context, continuation) of token ids, both at least one token long, in the order given.

    A request longer than block_size + 1 tokens loses the left end of its context. Raises ValueError for a
    continuation that is empty or longer than the block.
    """
    device, block = next(model.parameters()).device, model.config.block_size
    rows = []
    for context, continuation in requests:
        if not len(context) or not 0 < len(continuation) <= block:
            raise ValueError(
                f"a request has a context and 1 to {block} tokens to score, "
                f"not {len(context)} and {len(continuation)}"
            )
        tokens = [*context, *continuation][-(block + 1) :]
        rows.append((tokens, len(tokens) - 1 - len(continuation)))
    scores: dict[int, Score] = {}
    for batch in _batches(rows, batch_tokens):
        longest = max(len(rows[i][0]) - 1 for i in batch)
        first = min(rows[i][1] for i in batch)
        idx = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, i in enumerate(batch):
            tokens = rows[i][0]
            idx[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
        logits, _ = model(idx.to(device), at=slice(first, None))
        for row, i in enumerate(batch):
            tokens, begin = rows[i]
            targets = torch.tensor(tokens[begin + 1 :], device=device)
            own = logits[row, begin - first : len(tokens) - 1 - first].float()
            nll = F.cross_entropy(own, targets, reduction="sum")
            scores[i] = Score(-float(nll), len(targets), bool((own.argmax(-1) == targets).all()))
        progress(len(scores), len(rows))
    return [scores[i] for i in range(len(rows))]


def cover(ids: Sequence[int], block_size: int) -> list[Request]:
    """Requests that score each of ids[1:] once; where they are too many for a block, each with half a block before.

    >>> cover([0, 1, 2, 3, 4, 5, 6], block_size=4)
    [([0], [1, 2, 3, 4]), ([2, 3, 4], [5, 6])]
    """
    end = min(len(ids), block_size + 1)
    requests: list[Request] = [(ids[:1], ids[1:end])] if end > 1 else []
    stride = max(1, block_size // 2)
    while end < len(ids):
        stop = min(len(ids), end + stride)
        requests.append((ids[max(0, stop - block_size - 1) : end], ids[end:stop]))
        end = stop
    return requests


def _batches(rows: Sequence[tuple[Sequence[int], int]], batch_tokens: int) -> Iterator[list[int]]:
    """Rows of about one length together, so that little is padded; batch_tokens at most in a batch."""
    batch: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i][0])):
        if batch and (len(batch) + 1) * len(rows[batch[0]][0]) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
