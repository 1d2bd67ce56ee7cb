"""The evaluation: score four endings a row, choose the likeliest, count.

Zellers et al. (2019), "HellaSwag: Can a Machine Really Finish Your Sentence?"
"""

from collections.abc import Callable, Mapping
from typing import Any

import click

from pealm_core import EvalResult, Tokenizer, UserError
from pealm_evals.choices import Question, evaluate
from pealm_hellaswag.config import HellaSwagConfig
from pealm_hellaswag.download import command, download, path
from pealm_hellaswag.rows import Row, read_rows
from pealm_hellaswag.styles import encode


class HellaSwag:
    """Accuracy by log-likelihood (`acc`) and by log-likelihood over length (`acc_norm`)."""

    prepare_command: click.Command = command

    def __init__(self, config: HellaSwagConfig | None = None) -> None:
        self.config = config or HellaSwagConfig()

    def prepare(self) -> None:
        """Download the validation file unless it is there."""
        download()

    def rows(self) -> list[Row]:
        """Return the rows to evaluate. Raises UserError."""
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
        questions = [self._encode(row, tokenizer) for row in self.rows()]
        return evaluate(model, questions, progress, details=self.config.details)

    def _encode(self, row: Row, tokenizer: Tokenizer) -> Question:
        try:
            return encode(row, self.config.style, tokenizer)
        except ValueError as error:
            raise UserError(f"{self.config.file or path()}, line {row.line:,}: {error}") from error
