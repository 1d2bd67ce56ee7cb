"""Log-likelihoods of continuations, the basis of every evaluator."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pealm_core.contract.protocols import has
from pealm_core.inference import shared_prefixes
from pealm_core.inference.kv_cache import KVCache, UnsupportedError
from pealm_core.inference.shared_prefixes import Piece
from pealm_cpu import keep_memory, products

Request = tuple[Sequence[int], Sequence[int]]
Row = tuple[int, Piece]  # with the row of the cache that has the piece's first tokens
SLACK = 2  # contexts whose lengths differ by at most this many tokens share a pass over their common length


@dataclass(frozen=True)
class Score:
    """log_prob: nats, summed over the continuation's tokens; greedy: whether argmax would generate it.

    cut: the number of context tokens that did not fit into the block.
    """

    log_prob: float
    tokens: int
    greedy: bool
    cut: int = 0


def score(
    model: Any,
    requests: Sequence[Request],
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    each: Callable[[int, Score], None] = lambda request, result: None,
) -> list[Score]:
    """Score each (context, continuation) of token ids, both at least one token long, in the order given.

    A request longer than block_size + 1 tokens loses the left end of its context. A longer continuation is scored in
    parts of half a block, each after as many of the tokens before it as fit.

    If torch.distributed is initialized, every rank calls this with the same requests, scores its part, and gets all
    scores. batch_tokens: most tokens of a pass, unless one request is longer. progress: called with (done, total).
    each: called with a request's index and its score as soon as this rank knows it.
    Raises ValueError for an empty context or continuation.
    """
    block = model.config.block_size
    pieces = [Piece(i, *part) for i, request in enumerate(requests) for part in _parts(request, block)]
    remaining = Counter(piece.request for piece in pieces)
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    done, sums = 0, torch.zeros(len(requests), 2, dtype=torch.float64)  # log-likelihood, pieces that are not greedy

    def result(i: int) -> Score:
        return Score(float(sums[i, 0]), len(requests[i][1]), not sums[i, 1], cuts[i])

    cuts = {piece.request: piece.cut for piece in reversed(pieces)}  # of a request's first piece
    device = next(model.parameters()).device
    if device.type == "cpu":
        keep_memory()
    with torch.inference_mode(), products(device):
        for batch, results in _run(model, _contexts(pieces)[rank::size], batch_tokens):
            done += len(batch)
            for piece, values in zip(batch, results, strict=True):
                sums[piece.request] += values
                remaining[piece.request] -= 1
                if not remaining[piece.request]:
                    each(piece.request, result(piece.request))
            progress(min(len(requests), len(requests) * done * size // len(pieces)), len(requests))
    if size > 1:
        dist.all_reduce(sums)
    return [result(i) for i in range(len(requests))]


def _parts(request: Request, block: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Yield contexts and continuations that fit into the block, and the number of tokens cut from each context."""
    context, continuation = (tuple(int(token) for token in ids) for ids in request)
    if not context or not continuation:
        raise ValueError(
            f"a request has a context and tokens to score, not {len(context)} and {len(continuation)} tokens"
        )
    size = len(continuation) if len(continuation) <= block else max(1, block // 2)
    for begin in range(0, len(continuation), size):
        targets = continuation[begin : begin + size]
        before = context + continuation[:begin] if begin else context
        cut = max(0, len(before) + len(targets) - block - 1)
        yield before[cut:], targets, cut


def _contexts(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Return lists of the pieces that have the same context, longest context first."""
    contexts: dict[tuple[int, ...], list[Piece]] = {}
    for piece in pieces:
        contexts.setdefault(piece.context, []).append(piece)
    return sorted(contexts.values(), key=lambda same: -len(same[0].context))


def _run(
    model: Any, contexts: Sequence[list[Piece]], batch_tokens: int | None
) -> Iterator[tuple[list[Piece], Tensor]]:
    """Yield pieces and, for each, its log-likelihood and 0 if it is greedy, else 1: (n, 2) in float64."""
    device = next(model.parameters()).device
    if device.type == "cpu" and has(model, "make_cache") and type(model.make_cache(1, 1)) is KVCache:
        with suppress(UnsupportedError):
            pieces = [piece for same in contexts for piece in same]
            yield from shared_prefixes.run(
                model, pieces, batch_tokens or shared_prefixes.TOKENS, 2**25 // model.config.vocab_size
            )
            return
    if batch_tokens is None:
        # The logits of a pass take 32 MB on a CPU, for its caches and allocator, and 2 GB elsewhere.
        logits = 2**23 if device.type == "cpu" else 2**29
        batch_tokens = min(2**13 if device.type == "cpu" else 2**15, max(64, logits // model.config.vocab_size))
    for group, shared in _groups(model, contexts, batch_tokens):
        rows = [(place, piece) for place, same in enumerate(group) for piece in same]
        rows.sort(key=lambda row: -len(row[1].ids))
        cache = None
        if shared:
            cache = model.make_cache(len(group), len(rows[0][1].ids))
            prefixes = torch.tensor([same[0].context[:shared] for same in group], device=device)
            model(prefixes, cache=cache, at=slice(0, 0))  # no logits: a row's first logits come from its own ids
        for batch in _batches(rows, batch_tokens, shared):
            yield [piece for _, piece in batch], _pass(model, batch, shared, cache, device)


def _groups(
    model: Any, contexts: Sequence[list[Piece]], batch_tokens: int
) -> Iterator[tuple[list[list[Piece]], int]]:
    """Yield contexts to run together, and how many tokens of each to run only once for all of its continuations."""
    caches = has(model, "make_cache")
    several = [same for same in contexts if caches and len(same) > 1]
    selects = bool(several) and has(model.make_cache(1, 1), "select")
    group: list[list[Piece]] = []
    length = 0  # of the shortest context in the group, which is the last
    for same in several:
        new = len(same[0].context)
        room = selects and (len(group) + 1) * new <= max(512, batch_tokens)
        if group and not (room and len(group[0][0].context) - new <= SLACK):
            yield group, length - 1
            group = []
        group.append(same)
        length = new
    if group:
        yield group, length - 1
    if single := [same for same in contexts if not caches or len(same) == 1]:
        yield single, 0


def _batches(rows: Sequence[Row], batch_tokens: int, shared: int) -> Iterator[list[Row]]:
    """Group rows of similar length, for little padding; a batch has at most batch_tokens."""
    batch: list[Row] = []
    for row in rows:
        if batch and (len(batch) + 1) * (len(batch[0][1].ids) - shared) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _pass(model: Any, batch: Sequence[Row], shared: int, cache: Any, device: torch.device) -> Tensor:
    """Return what `_run` yields for each row: (B, 2) on the CPU. shared: tokens of each row in the cache."""
    pieces = [piece for _, piece in batch]
    longest, first = len(pieces[0].ids), min(len(piece.context) for piece in pieces) - 1
    idx = torch.zeros(len(pieces), longest, dtype=torch.long)
    targets = torch.full_like(idx, -100)  # ignored by cross_entropy
    for row, piece in enumerate(pieces):
        idx[row, : len(piece.ids)] = torch.tensor(piece.ids)
        targets[row, len(piece.context) - 1 : len(piece.ids)] = torch.tensor(piece.continuation)
    idx, targets = idx[:, shared:].to(device), targets[:, first:].to(device)  # (B, T), (B, n)
    if cache is not None:
        places = torch.tensor([place for place, _ in batch], device=device)
        cache = cache.select(places) if has(cache, "select") else cache.repeat(len(batch))
    logits, _ = model(idx, cache=cache, at=slice(first - shared, None))
    logits = logits.float()  # (B, n, V)
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)  # (B, n)
    other = ((logits.argmax(-1) != targets) & (targets != -100)).any(-1)
    return torch.stack([-nll.sum(-1), other.float()], dim=1).cpu().double()


def cover(ids: Sequence[int], block_size: int, stride: int | None = None) -> list[Request]:
    """Return requests that score each of ids[1:] once, in windows `stride` tokens apart, by default half a block.

    >>> cover([0, 1, 2, 3, 4, 5, 6], block_size=4)
    [([0], [1, 2, 3, 4]), ([2, 3, 4], [5, 6])]
    """
    stride = max(1, block_size // 2) if stride is None else stride
    if not 1 <= stride <= block_size:
        raise ValueError(f"a window of {block_size} tokens can't have a stride of {stride}")
    end = min(len(ids), block_size + 1)
    requests: list[Request] = [(ids[:1], ids[1:end])] if end > 1 else []
    while end < len(ids):
        stop = min(len(ids), end + stride)
        requests.append((ids[max(0, stop - block_size - 1) : end], ids[end:stop]))
        end = stop
    return requests
