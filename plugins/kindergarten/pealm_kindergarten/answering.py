"""Whether a model answers questions about stories that no model was trained on, exactly and by kind of question."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pealm_core import EvalResult, Sampling, Tokenizer, chat_prompt, generate_ids, mean
from pealm_kindergarten.config import AnsweringConfig
from pealm_kindergarten.dataset import conversations
from pealm_kindergarten.questions import UNKNOWN

SCORED = 987_654_321  # the seed of the stories: unlike any that people train on
LONGEST = 60  # tokens of an answer


class Answering:
    """The evaluation `kindergarten-questions`."""

    def __init__(self, config: AnsweringConfig | None = None) -> None:
        self.config = config or AnsweringConfig()

    def evaluate(
        self, model: Any, tokenizer: Tokenizer, *, config: Mapping[str, Any], progress: Callable[[int, int], None]
    ) -> EvalResult:
        """Ask the questions, each after the right answers to those before it, and compare the answers exactly."""
        details: list[dict[str, Any]] = []
        wanted, answerable = self.config.questions, 0
        for messages, asked in conversations("val", SCORED, 10**9, 3):
            for number, question in enumerate(asked):
                said = answer(model, tokenizer, messages[: 2 * number + 1])
                answerable += question.known
                details.append(
                    {
                        "question": messages[2 * number]["content"],
                        "kind": question.kind,
                        "answerable": question.known,
                        "right answer": question.answer,
                        "answer": said,
                    }
                )
            progress(min(answerable, wanted), wanted)
            if answerable >= wanted:
                break
        by_kind: dict[str, list[bool]] = defaultdict(list)
        for row in details:
            if row["answerable"]:
                by_kind[row["kind"]].append(row["answer"] == row["right answer"])
        known = [row for row in details if row["answerable"]]
        metrics = {"exactly right": mean([row["answer"] == row["right answer"] for row in known])}
        metrics |= {f"{kind}: exactly right": mean(rows) for kind, rows in sorted(by_kind.items())}
        metrics["unanswerable, declined"] = mean([r["answer"] == UNKNOWN for r in details if not r["answerable"]])
        metrics["answerable, wrongly declined"] = mean([row["answer"] == UNKNOWN for row in known])
        wrong = next((row for row in known if row["answer"] != row["right answer"]), None)
        notes = [] if wrong is None else [f"{wrong['question']} {wrong['answer']!r}, not {wrong['right answer']!r}"]
        return EvalResult(
            metrics=metrics, n=len(details), notes=[" ".join(note.split()) for note in notes], details=details
        )


def answer(model: Any, tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> str:
    """Return the most likely answer to the last message."""
    block: int = model.config.block_size
    prompt = chat_prompt(tokenizer, [dict(message) for message in messages], max(8, block - min(LONGEST, block // 4)))
    ids: list[int] = []
    for drawn in generate_ids(model, prompt.ids, Sampling(max_new_tokens=LONGEST, temperature=0)):
        if (token := int(drawn[0])) in prompt.ends:
            break
        ids.append(token)
    return tokenizer.decode(ids)
