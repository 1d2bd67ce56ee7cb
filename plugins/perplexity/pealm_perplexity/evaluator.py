"""Nats per token and bits per byte of a text, with a sliding window in which every token is scored once.

A document starts after the token that texts start from (end-of-text, where the tokenizer has one), which is context
and is not scored itself. Tokens that are not learned are context as well. Bits per byte do not depend on the
tokenizer: models with different ones can be compared.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from pealm_core import Dataset, EvalResult, Segment, Tokenizer, UserError, cover, ratio, score, start_token
from pealm_perplexity.config import PerplexityConfig

AT_ONCE = 1024  # windows that are scored in one call


@dataclass(frozen=True)
class Document:
    """ids: without an end-of-text token; size: bytes of the learned text in UTF-8; learned: by token; None: all."""

    ids: Sequence[int]
    size: int
    learned: Sequence[bool] | None = None

    def requests(self, start: int, block: int, stride: int | None) -> Iterator[tuple[list[int], list[int]]]:
        """Yield contexts and continuations in which every learned token is scored once, after a `start` token."""
        position = 0
        for context, continuation in cover([start, *self.ids], block, stride):
            learned = self.learned[position : position + len(continuation)] if self.learned else [True]
            begin = 0
            for scored, run in groupby(learned):
                end = begin + len(list(run)) if self.learned else len(continuation)
                if scored:
                    yield [*context, *continuation[:begin]], [*continuation[begin:end]]
                begin = end
            position += len(continuation)


class Perplexity:
    """The evaluation `perplexity`."""

    def __init__(self, config: PerplexityConfig | None = None) -> None:
        self.config = config or PerplexityConfig()

    def evaluate(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        config: Mapping[str, Any],
        progress: Callable[[int, int, str], None],
        dataset: Dataset,
        split: str,
    ) -> EvalResult:
        """Score a dataset's split ("whole": all of its text). Raises UserError where it has no text."""
        documents = list(islice(read(dataset, split, tokenizer), self.config.limit))
        block = model.config.block_size
        if self.config.stride is not None and self.config.stride > block:
            raise UserError(f"--eval.stride {self.config.stride} is more than the model's block of {block} tokens")
        start = start_token(tokenizer)
        windows = [window for document in documents for window in document.requests(start, block, self.config.stride)]
        size, tokens = sum(document.size for document in documents), sum(len(ids) for _, ids in windows)
        if not tokens:
            raise UserError(f"the {split} split has no text to score")
        nats: list[float] = []
        for begin in range(0, len(windows), AT_ONCE):
            part = windows[begin : begin + AT_ONCE]
            nats += [-result.log_prob for result in score(model, part)]
            done = sum(len(ids) for _, ids in windows[: len(nats)])
            progress(done, tokens, f"loss {sum(nats) / done:.4f}")
        loss, stderr = ratio(nats, [len(ids) for _, ids in windows])
        bits = sum(nats) / math.log(2) / size if size else math.inf  # only special tokens may be learned
        ppl = math.exp(loss) if loss < 700 else math.inf
        return EvalResult(
            metrics={
                "loss": (loss, stderr),
                "perplexity": (ppl, ppl * stderr),
                "bits_per_byte": (bits, bits * stderr / loss if loss and size else 0.0),
            },
            n=tokens,
            notes=[f"{tokens:,} tokens, {size:,} bytes, {len(documents):,} documents ({split})"],
        )


def read(dataset: Dataset, split: str, tokenizer: Tokenizer) -> Iterator[Document]:
    """The documents of a split. Raises UserError for text that the tokenizer can't express."""
    if not hasattr(dataset, "documents"):
        yield from _from_shards(dataset, split, tokenizer)
        return
    texts = dataset.whole() if split == "whole" else dataset.documents(split)  # type: ignore[attr-defined]
    for number, text in enumerate(texts, 1):
        try:
            if isinstance(text, str):
                yield Document([int(token) for token in tokenizer.encode(text)], len(text.encode("utf-8")))
            else:
                yield _of_segments(text, tokenizer)
        except ValueError as error:
            raise UserError(f"document {number:,} of the {split} split: {error}") from error


def _of_segments(segments: Sequence[Segment], tokenizer: Any) -> Document:
    ids: list[int] = []
    learned: list[bool] = []
    for segment in segments:
        if segment.special is None:
            ids += [int(token) for token in tokenizer.encode(segment.text)]
        elif segment.special in (specials := getattr(tokenizer, "specials", {})):
            ids.append(specials[segment.special])
        else:
            raise ValueError(f"the tokenizer has no special token {segment.special!r}")
        learned += [segment.learn] * (len(ids) - len(learned))
    size = sum(len(segment.text.encode("utf-8")) for segment in segments if segment.learn)
    return Document(ids, size, learned)


def _from_shards(dataset: Any, split: str, tokenizer: Tokenizer) -> Iterator[Document]:
    """Yield what is between the end-of-text tokens of shards, without `bos_id`; whole shards if there are none."""
    if hasattr(dataset, "check"):
        dataset.check(tokenizer.vocab_size)
    ends, shards = {getattr(tokenizer, name, None) for name in ("eot_id", "bos_id")}, dataset.shards(split)
    masks = (dataset.masks(split) if hasattr(dataset, "masks") else None) or [None] * len(shards)
    for shard, mask in zip(shards, masks, strict=True):
        ids: list[int] = []
        learned: list[bool] = []
        for begin in range(0, len(shard), 2**20):
            part = shard[begin : begin + 2**20].tolist()
            flags = [True] * len(part) if mask is None else mask[begin : begin + 2**20].tolist()
            for token, learn in zip(part, flags, strict=True):
                if token not in ends:
                    ids.append(token)
                    learned.append(bool(learn))
                elif ids:
                    yield _decoded(ids, learned, tokenizer)
                    ids, learned = [], []
        if ids:
            yield _decoded(ids, learned, tokenizer)


def _decoded(ids: list[int], learned: list[bool], tokenizer: Tokenizer) -> Document:
    scored = [token for token, learn in zip(ids, learned, strict=True) if learn]
    return Document(ids, len(tokenizer.decode(scored).encode("utf-8")), None if all(learned) else learned)
