"""Whether a model answers questions about stories that no model was trained on, exactly and by kind of question."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pealm_core import EvalResult, Sampling, Tokenizer, chat_prompt, generate_ids, mean
from pealm_kindergarten.config import AnsweringConfig
from pealm_kindergarten.dataset import conversations
from pealm_kindergarten.questions import UNKNOWN

SCORED = 987_654_321  # the seed of the stories: unlike any that people train on
LONGEST = 60  # tokens of an answer
RIGHT, DECLINED, WRONGLY_DECLINED = "exactly right", "unanswerable, declined", "answerable, wrongly declined"


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
                right, declined = said == question.answer, said == UNKNOWN
                values = {RIGHT: right, f"{question.kind}: {RIGHT}": right, WRONGLY_DECLINED: declined}
                details.append(
                    {
                        "question": messages[2 * number]["content"],
                        "kind": question.kind,
                        "answerable": question.known,
                        "right answer": question.answer,
                        "answer": said,
                        **(values if question.known else {DECLINED: declined}),
                    }
                )
            progress(min(answerable, wanted), wanted)
            if answerable >= wanted:
                break
        kinds = sorted({f"{row['kind']}: {RIGHT}" for row in details if row["answerable"]})
        metrics = {
            name: mean([row[name] for row in details if name in row])
            for name in (RIGHT, *kinds, DECLINED, WRONGLY_DECLINED)
        }
        wrong = next((row for row in details if not row.get(RIGHT, True)), None)
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
