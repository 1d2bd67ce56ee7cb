"""The share of a model's words that a text has: a model that spells does better than one that babbles."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from pealm_core import EvalResult, Sampling, Tokenizer, UserError, generate_ids, start_token
from pealm_wordcount.config import WordcountConfig
from pealm_wordcount.words import count, words


class Wordcount:
    """The evaluation `wordcount`."""

    def __init__(self, config: WordcountConfig) -> None:
        self.config = config

    def evaluate(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        config: Mapping[str, Any],
        progress: Callable[[int, int], None],
    ) -> EvalResult:
        """Let the model write and look its words up. Raises UserError where there is no text to look them up in."""
        if self.config.text is None:
            raise UserError("the evaluation wordcount needs a text: --eval.text FILE")
        known, n = count(self.config.text), self.config.samples
        sampling = Sampling(max_new_tokens=self.config.tokens, num_samples=n, seed=self.config.seed)
        rows: list[list[int]] = [[] for _ in range(n)]
        for step, drawn in enumerate(generate_ids(model, [start_token(tokenizer)], sampling), 1):
            for row, token in zip(rows, drawn.tolist(), strict=True):
                row.append(token)
            progress(step, self.config.tokens)
        # The last word of a text may be cut off.
        written = [word for row in rows for word in words(tokenizer.decode(row))[:-1]]
        share = sum(word in known for word in written) / max(1, len(written))
        stderr = math.sqrt(share * (1 - share) / max(1, len(written)))
        return EvalResult(metrics={"known words": (share, stderr)}, n=n, notes=[f"{len(written):,} words written"])
