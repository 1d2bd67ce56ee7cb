"""What a model's own stories are worth, and how near its loss is to what the grammar leaves to chance.

A model tells stories from their very start. A story counts where the grammar has a derivation for it, a sentence
where it occurs in some story. The loss is taken story by story, from the start to the end mark, on stories that no
model was trained on, and set beside the entropy floor.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from pealm_core import EvalResult, Sampling, Tokenizer, cover, generate_ids, score, start_token
from pealm_kindergarten.config import TellingConfig
from pealm_kindergarten.corpus import check_sentences, diversity, entropy_floor, max_length, parse, stories
from pealm_kindergarten.grammar import END

BATCH = 64  # stories told at once
SCORED = 987_654_321  # the seed of the stories to score: unlike any that people train on


class Telling:
    """The evaluation `kindergarten`."""

    def __init__(self, config: TellingConfig | None = None) -> None:
        self.config = config or TellingConfig()

    def evaluate(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        config: Mapping[str, Any],
        progress: Callable[[int, int], None],
    ) -> EvalResult:
        """Let the model tell stories, judge them, and score it on the grammar's own."""
        n = self.config.stories
        told = self.tell(model, tokenizer, lambda done: progress(done, 2 * n))
        whole = [parse(text) is not None for text in told]
        accepted = [text for text, good in zip(told, whole, strict=True) if good]
        judged = [[good for _, good in check_sentences(text)] for text in told]
        metrics = {
            "stories accepted": _share(whole),
            "sentences accepted": _ratio([sum(row) for row in judged], [len(row) for row in judged]),
        }
        notes = []
        training = _training_stories(config)
        if training is None:
            notes.append("The model was not trained on these stories, so how many of its own are new is not told.")
        elif accepted:
            metrics["accepted ones that are new"] = _share([text not in training for text in accepted])
        # Both are samples of one size, the grammar's being fresh ones.
        own = diversity(told)
        grammars = diversity(list(stories("val", SCORED + 1, n)))
        notes += [
            f"distinct stories {own.distinct:.3f} (the grammar's own {grammars.distinct:.3f}), "
            f"distinct word triples {own.distinct_3:.3f} ({grammars.distinct_3:.3f}), "
            f"entropy of plots {own.plots:.2f} ({grammars.plots:.2f}) nats"
        ]
        losses, lengths = self.losses(model, tokenizer, lambda done: progress(n + done, 2 * n))
        loss, stderr = _ratio(losses, lengths)
        floor = entropy_floor()
        metrics["loss (nats per character)"] = (loss, stderr)
        metrics["entropy floor"] = (floor, 0.0)
        metrics["loss / floor"] = (loss / floor, stderr / floor)
        first = next((text for text, good in zip(told, whole, strict=True) if not good), None)
        if first is not None:
            notes.append(f"one that is not accepted: {first}")
            notes.append(f"  why: python -m pealm_kindergarten --explain {_quote(first)}")
        details = [{"story": text, "accepted": good} for text, good in zip(told, whole, strict=True)]
        return EvalResult(metrics=metrics, n=n, notes=notes, details=details)

    def tell(self, model: Any, tokenizer: Tokenizer, progress: Callable[[int], None]) -> list[str]:
        """Stories without their end mark; one that does not end in time is longer than any story of the grammar."""
        told: list[str] = []
        while len(told) < self.config.stories:
            rows = min(BATCH, self.config.stories - len(told))
            sampling = Sampling(
                max_new_tokens=max_length() + 1,
                temperature=self.config.temperature,
                seed=self.config.seed * 1_000_003 + len(told),
                num_samples=rows,
            )
            ids: list[list[int]] = [[] for _ in range(rows)]
            texts = [""] * rows
            for drawn in generate_ids(model, [start_token(tokenizer)], sampling):
                for row, token in enumerate(drawn.tolist()):
                    if END not in texts[row]:
                        ids[row].append(token)
                        texts[row] = tokenizer.decode(ids[row])
                if all(END in text for text in texts):
                    break
            told += [text.partition(END)[0] for text in texts]
            progress(len(told))
        return told

    def losses(
        self, model: Any, tokenizer: Tokenizer, progress: Callable[[int], None]
    ) -> tuple[list[float], list[int]]:
        """Nats and characters of each of the grammar's fresh stories, end mark included."""
        texts = [story + END for story in stories("val", SCORED, self.config.stories)]
        start = start_token(tokenizer)
        requests, owners = [], []
        for number, text in enumerate(texts):
            for request in cover([start, *(int(i) for i in tokenizer.encode(text))], model.config.block_size):
                requests.append(request)
                owners.append(number)
        losses = [0.0] * len(texts)
        scores = score(model, requests, progress=lambda done, total: progress(len(texts) * done // total))
        for number, result in zip(owners, scores, strict=True):
            losses[number] -= result.log_prob
        return losses, [len(text) for text in texts]


def _training_stories(config: Mapping[str, Any]) -> set[str] | None:
    """The stories that a checkpoint was trained on, told again; None where it was trained on something else."""
    table = config.get("input", {})
    if "kindergarten" not in table:
        return None
    seed = table["kindergarten"]
    return set(stories("train", 1 if seed is True else int(seed), int(table["stories"])))


def _share(flags: Sequence[bool]) -> tuple[float, float]:
    """A share and its standard error."""
    p = sum(flags) / len(flags)
    return p, math.sqrt(p * (1 - p) / len(flags))


def _ratio(parts: Sequence[float], wholes: Sequence[float]) -> tuple[float, float]:
    """sum(parts) / sum(wholes) over stories, and its standard error (the ratio estimator's, linearised)."""
    ratio = sum(parts) / max(1, sum(wholes))
    residuals = torch.tensor([a - ratio * b for a, b in zip(parts, wholes, strict=True)], dtype=torch.float64)
    mean = sum(wholes) / len(wholes)
    return ratio, float(residuals.std()) / max(mean, 1e-12) / math.sqrt(len(wholes))


def _quote(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
