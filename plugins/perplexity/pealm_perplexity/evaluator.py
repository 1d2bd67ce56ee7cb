"""Nats per token and bits per byte of a text, with a sliding window in which every token is scored once.

A document starts after the token that texts start from (end-of-text, where the tokenizer has one), which is context
and is not scored itself. Tokens that are not learned are context as well. Bits per byte do not depend on the
tokenizer: models with different ones can be compared. Memory does not grow with the text.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pealm_core import Dataset, EvalResult, Tokenizer, UserError, score, start_token
from pealm_perplexity.config import PerplexityConfig
from pealm_perplexity.text import MOST, PASSAGE, Piece, read
from pealm_perplexity.trained_on import training_files
from pealm_perplexity.windows import Request, requests

AT_ONCE = 2**18  # tokens of the windows that are scored in one call


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
        block, stride = self._window(model.config.block_size)
        text = _Text(dataset, split, tokenizer, self.config)
        windows = (
            request
            for document in text.documents()
            for request in requests(document, start_token(tokenizer), block, stride)
        )
        total, rows = _Sums(), dict[int, list[float]]()
        for batch in _batches(windows):
            for (number, _, ids), result in zip(batch, score(model, [(a, b) for _, a, b in batch]), strict=True):
                total.add(-result.log_prob, len(ids))
                if self.config.details:
                    row = rows.setdefault(number, [0.0, 0])
                    row[0], row[1] = row[0] - result.log_prob, row[1] + len(ids)
            progress(total.tokens, max(total.tokens, self.config.max_tokens or 0), f"loss {total.loss:.4f}")
        if not total.tokens:
            raise UserError(f"the {split} split has no text to score")
        progress(total.tokens, total.tokens, f"loss {total.loss:.4f}")
        loss, stderr, size = total.loss, total.stderr, text.size
        bits = total.nats / math.log(2) / size if size else math.inf  # only special tokens may be learned
        ppl = math.exp(loss) if loss < 700 else math.inf
        documents = f"{text.count:,} document{'s' * (text.count != 1)}"
        notes = [f"{total.tokens:,} tokens, {size:,} bytes, {documents} ({split})"]
        if text.cut:
            notes.append("only the beginning of the text was scored; --eval.max-tokens none scores all of it")
        if split == "whole" and (files := training_files(config, dataset)):
            notes.append(f"the model was trained on this text or a part of it: {', '.join(files)}")
        return EvalResult(
            metrics={
                "loss": (loss, stderr),
                "perplexity": (ppl, ppl * stderr),
                "bits_per_byte": (bits, bits * stderr / loss if loss and size else 0.0),
            },
            n=total.tokens,
            notes=notes,
            details=[
                {
                    "document": text.passages[number]["document"],
                    "end": text.passages[number]["end"],
                    "loss": [nats, tokens],  # a part and a whole: the metric is the ratio of their sums
                    "bits_per_byte": [nats / math.log(2), text.passages[number]["bytes"]],
                }
                for number, (nats, tokens) in rows.items()
            ],
        )

    def _window(self, context: int) -> tuple[int, int]:
        """Return the window and its stride. Raises UserError for more than the model's context."""
        window, stride = self.config.window or context, self.config.stride
        for name, value, most in (("window", window, context), ("stride", stride or 1, window)):
            if value > most:
                limit = "the model's block" if most == context else "the window"
                raise UserError(f"--eval.{name} {value} is more than {limit} of {most} tokens")
        return window, stride or max(1, window // 2)


class _Text:
    """The pieces of the documents to score, up to the limits, and how much was read of them.

    passages: for details, the place of each piece: its document, and the byte of the document at which it ends.
    """

    def __init__(self, dataset: Dataset, split: str, tokenizer: Tokenizer, config: PerplexityConfig) -> None:
        self.source = read(dataset, split, tokenizer, PASSAGE if config.details else MOST)
        self.tokenizer, self.config = tokenizer, config
        self.size, self.count, self.cut, self.passages = 0, 0, False, list[dict[str, int]]()
        self._left = math.inf if config.max_tokens is None else config.max_tokens

    def documents(self) -> Iterator[Iterator[tuple[int, Piece]]]:
        """Yield each document as pieces with their numbers; without details, all have the number 0.

        The limit and `count` are of documents that have something to score: take each one whole before the next.
        """
        for document in self.source:
            if not self._left:
                self.cut = True
                return
            yield self._pieces(document)
            if self.count == self.config.limit:
                return

    def _pieces(self, document: Iterator[Piece]) -> Iterator[tuple[int, Piece]]:
        end, number = 0, self.count + 1
        for piece in document:
            if not self._left:
                self.cut = True
                return
            part = piece if piece.scored <= self._left else piece.first(int(self._left), self.tokenizer)
            self.cut = self.cut or part is not piece
            self._left, self.size, end = self._left - part.scored, self.size + part.size, end + part.size
            self.count = number if part.scored else self.count
            if self.config.details:
                self.passages.append({"document": number, "end": end, "bytes": part.size})
            yield max(0, len(self.passages) - 1), part


class _Sums:
    """Nats and tokens of windows, and what the error of their ratio needs (Cochran 1977, section 2.11)."""

    def __init__(self) -> None:
        self.count, self.nats, self.tokens = 0, 0.0, 0
        self._squares = [0.0, 0.0, 0.0]

    def add(self, nats: float, tokens: int) -> None:
        """Add a window."""
        self.count, self.nats, self.tokens = self.count + 1, self.nats + nats, self.tokens + tokens
        for place, value in enumerate((nats * nats, nats * tokens, tokens * tokens)):
            self._squares[place] += value

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def stderr(self) -> float:
        """The standard error of the loss over windows, as `pealm_core.ratio` has it; 0 of one window."""
        nn, nt, tt = self._squares
        residuals = max(0.0, nn - 2 * self.loss * nt + self.loss**2 * tt)
        return math.sqrt(residuals / (self.count - 1) * self.count) / self.tokens if self.count > 1 else 0.0


def _batches(windows: Iterable[Request]) -> Iterator[list[Request]]:
    """Group windows into batches of some hundred thousand tokens."""
    batch: list[Request] = []
    size = 0
    for request in windows:
        batch.append(request)
        size += len(request[1]) + len(request[2])
        if size >= AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
