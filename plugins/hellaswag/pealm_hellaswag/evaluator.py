"""The evaluation: score four endings a row, choose the likeliest, count.

Zellers et al. (2019), "HellaSwag: Can a Machine Really Finish Your Sentence?"
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from pealm_core import EvalResult, Score, Tokenizer, UserError, score
from pealm_hellaswag.config import HellaSwagConfig
from pealm_hellaswag.download import command, download, path
from pealm_hellaswag.rows import Row, read_rows
from pealm_hellaswag.styles import Item, encode


class HellaSwag:
    """Accuracy by log-likelihood (`acc`) and by log-likelihood over length (`acc_norm`)."""

    prepare_command: click.Command = command

    def __init__(self, config: HellaSwagConfig | None = None) -> None:
        self.config = config or HellaSwagConfig()

    def prepare(self) -> None:
        """Download the validation file unless it is there."""
        download()

    def rows(self) -> list[Row]:
        """The rows to evaluate. Raises UserError."""
        file = self.config.file
        if file is None:
            file = path()
            if not file.exists():
                raise UserError("HellaSwag is not here: run pealm prepare hellaswag, or give --eval.file FILE")
        return read_rows(file, self.config.split, self.config.limit)

    def evaluate(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        config: Mapping[str, Any],
        progress: Callable[[int, int, str], None],
    ) -> EvalResult:
        """Score a model on the rows. Raises UserError for a bad row or one that the tokenizer can't express."""
        rows = self.rows()
        items = [self._encode(row, tokenizer) for row in rows]
        requests = [(item.context, ending) for item in items for ending in item.endings]
        tally = _Tally(rows, items, progress)
        scores = score(model, requests, each=tally.add, progress=tally.show)
        fours = [scores[i : i + 4] for i in range(0, len(scores), 4)]
        judged = [_judge(row, item, four) for row, item, four in zip(rows, items, fours, strict=True)]
        notes = []
        if cut := sum(any(result.cut for result in four) for four in fours):
            notes.append(
                f"{cut:,} of {len(rows):,} rows were longer than the model's block and lost their context's left end"
            )
        return EvalResult(
            metrics={
                "acc": share([row["choice"] == row["label"] for row in judged]),
                "acc_norm": share([row["choice_norm"] == row["label"] for row in judged]),
            },
            n=len(rows),
            notes=notes,
            details=judged if self.config.details else (),
        )

    def _encode(self, row: Row, tokenizer: Tokenizer) -> Item:
        try:
            return encode(row, self.config.style, tokenizer)
        except ValueError as error:
            raise UserError(f"{self.config.file or path()}, line {row.line:,}: {error}") from error


class _Tally:
    """The accuracy of the rows whose four endings are scored, as it is while the rest is under way."""

    def __init__(self, rows: Sequence[Row], items: Sequence[Item], progress: Callable[[int, int, str], None]) -> None:
        self.rows, self.items, self.progress = rows, items, progress
        self.known: dict[int, dict[int, Score]] = {}
        self.right: list[bool] = []

    def add(self, request: int, result: Score) -> None:
        """An ending is scored."""
        i, place = divmod(request, 4)
        scores = self.known.setdefault(i, {})
        scores[place] = result
        if len(scores) == 4:
            judged = _judge(self.rows[i], self.items[i], [scores[place] for place in range(4)])
            self.right.append(judged["choice_norm"] == judged["label"])
            del self.known[i]

    def show(self, done: int, total: int) -> None:
        """Tell how far it is, and the accuracy so far."""
        acc, stderr = share(self.right)
        text = f"acc_norm {acc:.4f} ± {stderr:.4f}" if len(self.right) > 1 else ""
        self.progress(done // 4, total // 4, text)


def _judge(row: Row, item: Item, scores: Sequence[Score]) -> dict[str, Any]:
    sums = [s.log_prob for s in scores]
    means = [s / length if length else -math.inf for s, length in zip(sums, item.lengths, strict=True)]
    return {
        "line": row.line,
        "label": row.label,
        "log_likelihood": sums,
        "length": list(item.lengths),
        "choice": sums.index(max(sums)),
        "choice_norm": means.index(max(means)),
    }


def share(flags: Sequence[bool]) -> tuple[float, float]:
    """The share of true ones and its standard error, the sample's deviation over the root of n.

    >>> share([True, False])
    (0.5, 0.5)
    """
    n = len(flags)
    p = sum(flags) / max(1, n)
    return p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else 0.0
