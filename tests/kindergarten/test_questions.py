"""Questions about stories: known answers, kinds, how many can't be answered, and the evaluation of a model."""

import random
import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import pytest
import torch

from pealm_core import CHAT_LAYOUT, UserError, chat_prompt
from pealm_core.data.special_tokens import with_specials
from pealm_evals.paired import value
from pealm_evals.rows import metrics_of, same_rows
from pealm_kindergarten import KINDERGARTEN, parse
from pealm_kindergarten.answering import SCORED, Answering
from pealm_kindergarten.config import AnsweringConfig, QuestionsConfig
from pealm_kindergarten.dataset import Questions, conversations
from pealm_kindergarten.plots import RULES
from pealm_kindergarten.questions import UNKNOWN, ask, questions
from pealm_testing import DatasetConformance


class TestQuestions(DatasetConformance):
    spec = "kindergarten-questions"
    config = {"stories": 100}  # noqa: RUF012 (never modified)


def test_answers_are_what_the_story_says() -> None:
    story = parse(
        "After lunch Ella planted eight melon seeds. She sang to them every evening. Up came eight lovely melons. "
        "Ella was proud of the eight melons."
    )
    assert story is not None
    answers = {question.text: question.answer for question in questions(story, random.Random(0))}
    assert answers["How many seeds did Ella plant?"] == "There were eight."
    assert answers["How often did Ella sing?"] == "It was every evening."
    for text in ("Where did Ella plant the seeds?", "How often did Ella water the seeds?", "How old was Ella?"):
        assert answers[text] == UNKNOWN


FRAME = {"it", "was", "there", "were", "they", "the", "a", "an"}  # of an answer; its other words are the story's


def test_every_story_has_four_kinds_and_something_unknown() -> None:
    plots = set()
    for seed in range(1500):
        story = KINDERGARTEN.grammar.tell(random.Random(seed))
        asked = questions(story, random.Random(seed))
        plots.add(story.plot)
        assert len({question.kind for question in asked if question.known}) >= 4 and not all(q.known for q in asked)
        for question in asked:
            assert not {*"{}<>="} & {*question.text + question.answer} and question.text[-1] == "?"
            if question.known:
                said = {*re.findall(r"[a-z']+", question.answer.lower())} - FRAME
                assert said and said <= {*re.findall(r"[a-z']+", story.text.lower())}, (story.text, question)
    assert plots == set(RULES["story"])


def test_a_tenth_can_not_be_answered() -> None:
    known = [
        question.known
        for seed in range(1000)
        for question in ask(KINDERGARTEN.grammar.tell(random.Random(seed)), random.Random(seed), 3)
    ]
    assert 0.08 < 1 - sum(known) / len(known) < 0.12


def test_conversations_are_deterministic_and_by_split() -> None:
    train, again = (list(conversations("train", 1, 50, 3)) for _ in range(2))
    val = list(conversations("val", 1, 50, 3))
    assert train == again
    stories = [{messages[0]["content"][: -len(asked[0].text)] for messages, asked in part} for part in (train, val)]
    assert not stories[0] & stories[1]
    assert {len(messages) for messages, _ in train} == {2, 4, 6}
    first = next(iter(Questions(QuestionsConfig(stories=10)).documents("val")))
    assert [part.special for part in first[:3]] == ["<|user|>", None, "<|end|>"]


def test_some_stories_are_told_again_so_that_they_are_not_forgotten() -> None:
    def alone(retold: float, split: str) -> list[bool]:
        documents = list(Questions(QuestionsConfig(stories=300, retold=retold)).documents(split))
        for document in documents:
            if len(document) == 1:
                assert document[0].learn and document[0].text[-1] == "\n" and parse(document[0].text[:-1])
        return [len(document) == 1 for document in documents]

    assert 0.1 < sum(alone(0.15, "train")) / 300 < 0.2
    assert not any([*alone(0, "train"), *alone(0.5, "val")])


def test_the_stories_and_questions_are_learned_on_demand() -> None:
    def documents(**settings: Any) -> list[list[Any]]:
        return list(Questions(QuestionsConfig(stories=20, retold=0, **settings)).documents("train"))

    answers, everything = documents(), documents(learn="everything")
    assert [[(part.text, part.special) for part in document] for document in answers] == [
        [(part.text, part.special) for part in document] for document in everything
    ]
    assert all(part.learn for document in everything for part in document if part.special is None)
    assert not any(document[0].learn or document[3].learn for document in everything)  # whose turn it is
    assert [[part.learn for part in document[:6]] for document in answers] == 20 * [[False] * 4 + [True] * 2]


class Letters:
    """A tokenizer of bytes."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: Any) -> str:
        return "".join(map(chr, ids))


class Parrot(torch.nn.Module):
    """A model that answers everything with the same text, or a prompt of `known` with its own."""

    def __init__(self, tokenizer: Any, text: str, known: Mapping[tuple[int, ...], str] | None = None) -> None:
        super().__init__()
        self.config = type("Config", (), {"block_size": 1024, "vocab_size": tokenizer.vocab_size})
        self.bot, self.end = tokenizer.specials["<|assistant|>"], tokenizer.specials["<|end|>"]
        self.text, self.known, self.encode = text, known or {}, tokenizer.encode
        self.longest = 0  # tokens of a prompt
        self.zero = torch.nn.Parameter(torch.zeros(()))

    def forward(self, idx: torch.Tensor, targets: Any = None, *, cache: Any = None, at: Any = None) -> Any:
        row = idx[0].tolist()
        said = row[::-1].index(self.bot)
        prompt = tuple(row[: len(row) - said])
        self.longest = max(self.longest, len(prompt))
        logits = torch.zeros(1, 1, self.config.vocab_size)
        logits[..., [*self.encode(self.known.get(prompt, self.text)), self.end][said]] = 1
        return logits + self.zero, None


def asked(model: Any, questions: int = 60, done: list[Any] | None = None) -> Any:
    tokenizer = with_specials(Letters(), [], chat=CHAT_LAYOUT)
    shown = [] if done is None else done
    evaluation = Answering(AnsweringConfig(questions=questions))
    result = evaluation.evaluate(model, tokenizer, config={}, progress=lambda *numbers: shown.append(numbers))
    assert result.n == len(result.details) and all(isinstance(note, str) for note in result.notes)
    return result


def test_the_evaluation() -> None:
    tokenizer = with_specials(Letters(), [], chat=CHAT_LAYOUT)
    result = asked(Parrot(tokenizer, UNKNOWN))
    assert result.metrics["exactly right"] == (0.0, 0.0)
    assert result.metrics["unanswerable, declined"] == result.metrics["answerable, wrongly declined"] == (1.0, 0.0)
    result = asked(Parrot(tokenizer, "It was red."))
    answerable = [row for row in result.details if row["answerable"]]
    right = [row["right answer"] == "It was red." for row in answerable]
    assert result.metrics["exactly right"][0] == sum(right) / len(right)
    assert result.metrics["unanswerable, declined"][0] == 0.0
    kinds = [name for name in result.metrics if name.endswith(": exactly right")]
    assert kinds == sorted({f"{row['kind']}: exactly right" for row in answerable})
    wrong = next(row for row in answerable if row["right answer"] != "It was red.")
    assert len(result.notes) == 1 and result.notes[0].endswith(f"'It was red.', not {wrong['right answer']!r}")
    assert all(metrics_of(result.details, [name]) for name in result.metrics)  # so that they can be compared
    for name, (mean, _) in result.metrics.items():
        assert value(same_rows(name, [result.details])[0]) == pytest.approx(mean)
    with pytest.raises(UserError, match="no chat layout"):
        Answering().evaluate(Parrot(tokenizer, ""), Letters(), config={}, progress=lambda *numbers: None)


def test_a_model_that_knows_the_answers_is_right() -> None:
    """It knows them by the whole prompt: the story, the earlier questions with their answers, and the question."""
    tokenizer = with_specials(Letters(), [], chat=CHAT_LAYOUT)
    known, sizes = dict[tuple[int, ...], str](), set[int]()
    for messages, own in conversations("val", SCORED, 40, 3):
        sizes.add(len(own))
        for number, question in enumerate(own):
            prompt = chat_prompt(tokenizer, messages[: 2 * number + 1]).ids
            known[tuple(prompt)] = question.answer if question.known else "It was red."
    assert sizes == {1, 2, 3}
    result = asked(Parrot(tokenizer, "", known))
    assert result.metrics["exactly right"] == (1.0, 0.0) and result.notes == []
    assert [row["answer"] for row in result.details] == list(known.values())[: result.n]
    assert result.metrics["unanswerable, declined"] == result.metrics["answerable, wrongly declined"] == (0.0, 0.0)


def test_stories_are_taken_until_there_are_enough_questions() -> None:
    tokenizer = with_specials(Letters(), [], chat=CHAT_LAYOUT)
    per_story = [sum(q.known for q in own) for _, own in conversations("val", SCORED, 400, 3)]
    totals = list(accumulate(per_story))
    for wanted in (2, 3, 4, 5, 6, 400):
        done: list[Any] = []
        result = asked(Parrot(tokenizer, ""), wanted, done)
        stories = next(n for n, total in enumerate(totals, 1) if total >= wanted)
        assert sum(row["answerable"] for row in result.details) == totals[stories - 1]
        assert done == [(min(total, wanted), wanted) for total in totals[:stories]]


def test_prompts_and_answers_fit_the_context() -> None:
    tokenizer = with_specials(Letters(), [], chat=CHAT_LAYOUT)
    model = Parrot(tokenizer, "a" * 100)
    assert {row["answer"] for row in asked(model, 2).details} == {"a" * 60}
    for block, room in ((80, 60), (8, 8)):
        model = Parrot(tokenizer, "")
        model.config.block_size = block
        asked(model, 2)
        assert model.longest == room
