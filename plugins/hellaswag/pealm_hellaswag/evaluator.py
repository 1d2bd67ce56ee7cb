"""The evaluation: score four endings a row, choose the likeliest, count.

Zellers et al. (2019), "HellaSwag: Can a Machine Really Finish Your Sentence?"
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from pealm_core import EvalResult, Score, Tokenizer, UserError, credit, mean, score_choices
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
        questions = [(item.context, item.endings) for item in items]

        def judge(number: int, scores: Sequence[Score]) -> float:
            return credit(_means(items[number], scores), rows[number].label)

        fours = score_choices(model, questions, judge, progress)
        notes = []
        if cut := sum(any(result.cut for result in four) for four in fours):
            notes.append(
                f"{cut:,} of {len(rows):,} rows were longer than the model's block and lost their context's left end"
            )
        sums = [[result.log_prob for result in four] for four in fours]
        means = [_means(item, four) for item, four in zip(items, fours, strict=True)]
        if ties := sum(row.count(max(row)) > 1 for row in means):
            notes.append(f"in {ties:,} of {len(rows):,} rows several endings are equally likely and share the credit")
        metrics = {
            name: mean([credit(values, row.label) for values, row in zip(table, rows, strict=True)])
            for name, table in (("acc", sums), ("acc_norm", means))
        }
        details = (
            {
                "line": row.line,
                "label": row.label,
                "log_likelihood": own,
                "length": list(item.lengths),
                "choice": own.index(max(own)),
                "choice_norm": norm.index(max(norm)),
                "acc": credit(own, row.label),
                "acc_norm": credit(norm, row.label),
            }
            for row, item, own, norm in zip(rows, items, sums, means, strict=True)
        )
        return EvalResult(
            metrics=metrics, n=len(rows), notes=notes, details=list(details) if self.config.details else ()
        )

    def _encode(self, row: Row, tokenizer: Tokenizer) -> Item:
        try:
            return encode(row, self.config.style, tokenizer)
        except ValueError as error:
            raise UserError(f"{self.config.file or path()}, line {row.line:,}: {error}") from error


def _means(item: Item, scores: Sequence[Score]) -> list[float]:
    """Return each ending's log-likelihood over its length."""
    pairs = zip(scores, item.lengths, strict=True)
    return [result.log_prob / length if length else -math.inf for result, length in pairs]
