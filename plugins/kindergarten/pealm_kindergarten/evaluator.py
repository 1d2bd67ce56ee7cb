"""How good a model's own stories are, and how near its loss is to the lowest possible one.

A model generates stories from their start. A story is accepted if the grammar has a derivation for it, a sentence if
it occurs in some story. The loss is computed story by story, from the start to the end mark, on stories that no model
was trained on, and divided by the grammar's own loss on the same stories: sampling noise of the stories cancels.
"""

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from pealm_core import EvalResult, Sampling, Tokenizer, cover, generate_ids, mean, ratio, score, start_token
from pealm_kindergarten.config import TellingConfig
from pealm_kindergarten.corpus import KINDERGARTEN, SECOND_GRADE, Grade
from pealm_kindergarten.parts import END

BATCH = 64  # stories told at once
SCORED = 987_654_321  # the seed of the stories to score: unlike any that people train on


class Telling:
    """The evaluation `kindergarten`."""

    grade = KINDERGARTEN

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
        n, grade = self.config.stories, self.grade
        told = self.tell(model, tokenizer, lambda done: progress(done, 2 * n))
        whole = [grade.parse(text) is not None for text in told]
        accepted = [text for text, good in zip(told, whole, strict=True) if good]
        judged = [[good for _, good in grade.check_sentences(text)] for text in told]
        metrics = {
            "stories accepted": mean(whole),
            "sentences accepted": ratio([sum(row) for row in judged], [len(row) for row in judged])
            if any(judged)
            else (0.0, 0.0),
        }
        notes = []
        training = _training_stories(grade, config)
        if training is None:
            notes.append("How many stories are new is not counted: the model was not trained on these stories.")
        elif accepted:
            metrics["accepted ones that are new"] = mean([text not in training for text in accepted])
        # Both are samples of one size; the grammar's is fresh.
        own = grade.diversity(told)
        grammars = grade.diversity(list(grade.stories("val", SCORED + 1, n)))
        notes += [
            f"distinct stories {own.distinct:.3f} (the grammar's own {grammars.distinct:.3f}), "
            f"distinct word triples {own.distinct_3:.3f} ({grammars.distinct_3:.3f}), "
            f"entropy of plots {own.plots:.2f} ({grammars.plots:.2f}) nats"
        ]
        texts = list(grade.stories("val", SCORED, n))
        losses = self.losses(model, tokenizer, texts, lambda done: progress(n + done, 2 * n))
        floors, lengths = [-grade.log_prob(text) for text in texts], [len(text + END) for text in texts]
        metrics["loss (nats per character)"] = ratio(losses, lengths)
        metrics["floor of these stories"] = ratio(floors, lengths)
        metrics["entropy floor"] = (grade.entropy_floor(), 0.0)
        metrics["loss / floor"] = ratio(losses, floors)
        first = next((text for text, good in zip(told, whole, strict=True) if not good), None)
        if first is not None:
            notes.append(f"one that is not accepted: {first}")
            which = "" if grade is KINDERGARTEN else f" --grade {grade.name}"
            notes.append(f"  why: python -m pealm_kindergarten{which} --explain={shlex.quote(first)}")
        # For `pealm compare`: the story told with this number, and the one that was scored; ratios as part and whole.
        details = [
            {
                "story": text,
                "stories accepted": good,
                "sentences accepted": [sum(sentences), len(sentences)],
                "loss (nats per character)": [loss, length],
                "loss / floor": [loss, floor],
            }
            for text, good, sentences, loss, length, floor in zip(
                told, whole, judged, losses, lengths, floors, strict=True
            )
        ]
        return EvalResult(metrics=metrics, n=n, notes=notes, details=details)

    def tell(self, model: Any, tokenizer: Tokenizer, progress: Callable[[int], None]) -> list[str]:
        """Stories without their end mark; one that does not end in time is longer than any story of the grammar."""
        told: list[str] = []
        while len(told) < self.config.stories:
            rows = min(BATCH, self.config.stories - len(told))
            sampling = Sampling(
                max_new_tokens=self.grade.max_length() + 1,
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
        self, model: Any, tokenizer: Tokenizer, texts: list[str], progress: Callable[[int], None]
    ) -> list[float]:
        """Return the nats of each story, end mark included."""
        start = start_token(tokenizer)
        requests, owners = [], []
        for number, text in enumerate(texts):
            for request in cover([start, *(int(i) for i in tokenizer.encode(text + END))], model.config.block_size):
                requests.append(request)
                owners.append(number)
        losses = [0.0] * len(texts)
        scores = score(model, requests, progress=lambda done, total: progress(len(texts) * done // total))
        for number, result in zip(owners, scores, strict=True):
            losses[number] -= result.log_prob
        return losses


class TellingSecondGrade(Telling):
    """The evaluation `second-grade`."""

    grade = SECOND_GRADE


def _training_stories(grade: Grade, config: Mapping[str, Any]) -> set[str] | None:
    """The stories that a checkpoint was trained on, told again; None where it was trained on something else."""
    table = config.get("input", {})
    if grade.name not in table:
        return None
    seed = table[grade.name]
    return set(grade.stories("train", 1 if seed is True else int(seed), int(table["stories"])))
