"""The second grade: exact figures, and stories whose facts an interpreter of their English agrees with."""

import math
import re
import statistics
import string
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pealm_char.tokenizer import CharTokenizer
from pealm_kindergarten import KINDERGARTEN, SECOND_GRADE
from pealm_kindergarten.__main__ import main
from pealm_kindergarten.config import StoriesConfig, TellingConfig
from pealm_kindergarten.dataset import SecondGrade
from pealm_kindergarten.evaluator import TellingSecondGrade
from pealm_kindergarten.parts import Derivation, sentences
from pealm_kindergarten.second_grade import REGISTERS, VARIABLES
from pealm_testing import DatasetConformance

TOLD: list[Derivation] = [SECOND_GRADE.telling(7, index) for index in range(2000)]
STORIES = [told.text for told in TOLD]
NUMBERS = [SECOND_GRADE.grammar.word("sum", row) for row in range(SECOND_GRADE.grammar.rows("sum"))]


class TestDataset(DatasetConformance):
    spec = "second-grade"
    config = {"stories": 100}  # noqa: RUF012 (never modified)


def test_every_story_has_exactly_one_derivation_the_one_it_was_told_with() -> None:
    for told in TOLD[:500]:
        assert list(SECOND_GRADE.grammar.parses(told.text)) == [told]


def test_figures_of_stories_agree_with_the_exact_ones() -> None:
    for values, exact in (
        ([-told.log_prob for told in TOLD], SECOND_GRADE.entropy()),
        ([len(story) + 1 for story in STORIES], SECOND_GRADE.mean_length()),
    ):
        assert abs(statistics.fmean(values) - exact) < 4 * statistics.stdev(values) / math.sqrt(len(values))
    assert SECOND_GRADE.entropy_floor() == SECOND_GRADE.entropy() / SECOND_GRADE.mean_length()
    assert max(map(len, STORIES)) < SECOND_GRADE.max_length() < 600
    assert SECOND_GRADE.exact.stories > 1e15 and len({*STORIES}) == len(STORIES)
    assert SECOND_GRADE.mean_length() > 2 * KINDERGARTEN.mean_length()


def test_every_alternative_and_every_variable_is_used() -> None:
    choices = {(choice.name, choice.picked) for told in TOLD for choice in told.choices}
    for rule, alternatives in SECOND_GRADE.grammar.rules.items():
        assert {a.source for a in alternatives} == {picked for name, picked in choices if name == f"<{rule}>"}
    assert {f"{{{name}}}" for name in (*VARIABLES, *REGISTERS)} <= {name for name, _ in choices}


def test_stories_are_plain_english() -> None:
    allowed = {*string.ascii_letters, *" .,!\"'-"}
    for story in STORIES:
        assert {*story} <= allowed and "  " not in story and story == story.strip()
        assert 8 <= len(sentences(story)) <= 11
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]|(?<!-)\bone \w+s\b|\bno\b", story), story
        for sentence in sentences(story):
            assert re.match(r'"?[A-Z]', sentence) and re.search(r'[.!]"?$', sentence)


def test_a_number_names_one_story_for_good() -> None:
    assert SECOND_GRADE.story(0, 2) == (
        "On Friday Leo went to see Zoe. Zoe had five pennies and Leo had six. Leo gave three to Zoe. A funny dog came by. "
        "Zoe got two more from Mum. They counted again and again. Leo picked up one more. Together they had fourteen "
        "pennies. Leo was happy again."
    )


class World:
    """Understands the sentences of a story, one after the other, without the grammar."""

    def __init__(self) -> None:
        self.children: list[str] = []
        self.have: dict[str, str] = {}  # thing -> child
        self.numbers: dict[str, int] = {}
        self.where = self.seen = ""
        self.checked = 0

    def other(self, child: str) -> str:
        (other,) = {*self.children} - {child}
        return other

    def toy(self) -> str:
        return next(iter(self.have))

    def check(self, holds: bool) -> None:
        assert holds
        self.checked += 1

    def read(self, sentence: str) -> None:
        for pattern, effect in EVENTS:
            if found := re.fullmatch(pattern, sentence):
                effect(self, *found.groups())

    def gain(self, child: str, number: str, sign: int = 1) -> None:
        self.numbers[child] += sign * NUMBERS.index(number)

    def start(self, one: str, n: str, two: str, m: str) -> None:
        self.numbers = {one: NUMBERS.index(n), two: NUMBERS.index(m)}

    def give(self, giver: str, number: str) -> None:
        self.gain(giver, number, -1)
        self.gain(self.other(giver), number)

    def each(self, number: str) -> None:
        for child in self.numbers:
            self.gain(child, number)

    def pass_on(self, giver: str, thing: str) -> None:
        self.check(self.have[thing] == giver)
        self.have[thing] = self.other(giver)

    def trade(self) -> None:
        self.have = {thing: self.other(child) for thing, child in self.have.items()}

    def put(self, place: str, seen: bool) -> None:
        self.where = place
        self.seen = place if seen else self.seen


N, M, THING = r"([A-Z]\w+)", r"([a-z-]+)", r"\w+"  # a child, a number or thing
PLACE = r"((?:under|behind|in|on|near|inside) .+)"
EVENTS: list[tuple[str, Callable[..., None]]] = [
    (rf".*?\b{N} and {N} (?:met|played) .*", lambda w, a, b: w.children.extend((a, b))),
    (rf".* {N} went to see {N}\.", lambda w, a, b: w.children.extend((a, b))),
    (rf"{N} had {M} {THING} and {N} had {M}\.", World.start),
    (rf"{N} (?:found|picked up|got) {M} more.*", World.gain),
    (rf"{N} lost {M} of .*", lambda w, child, n: w.gain(child, n, -1)),
    (rf"{N} gave {M} to [A-Z]\w+\.", World.give),
    (rf".* gave {M} to each of them\.", World.each),
    (rf"By now {N} had {M}\.", lambda w, child, n: w.check(NUMBERS[w.numbers[child]] == n)),
    (
        rf"In the end {N} had {M} and {N} had {M}\.",
        lambda w, a, n, b, m: w.check((NUMBERS[w.numbers[a]], NUMBERS[w.numbers[b]]) == (n, m)),
    ),
    (rf"Together they had {M} .*", lambda w, n: w.check(NUMBERS[sum(w.numbers.values())] == n)),
    (rf"{N} had an? \w+ {M}\.", lambda w, child, toy: w.have.update({toy: child})),
    (rf"{N} wore \w+ {M}\.", lambda w, child, wear: w.have.update({wear: child})),
    (rf"{N} gave the {M} to .*", World.pass_on),
    (rf"{N} took the {M}\.", lambda w, taker, toy: w.pass_on(w.other(taker), toy)),
    (rf"{N} lent [A-Z]\w+ the {M}\.", World.pass_on),
    (rf".* asked for the {M}, but {N} kept it\.", lambda w, toy, child: w.check(w.have[toy] == child)),
    (rf"{N} showed .* the {M}\.", lambda w, child, toy: w.check(w.have[toy] == child)),
    (rf"{N} played with the {M} .*", lambda w, child, toy: w.check(w.have[toy] == child)),
    (rf".* wanted the {M}, but {N} was cold\.", lambda w, wear, child: w.check(w.have[wear] == child)),
    (rf".* liked {N}'s {M}\.", lambda w, child, wear: w.check(w.have[wear] == child)),
    (r"Then each took what the other had\.", World.trade),
    (rf"So {N} took the \w+ {M} home\.", lambda w, child, toy: w.check(w.have[toy] == child)),
    (rf"{N} had to go home without .* {M}\.", lambda w, child, toy: w.check(w.have[toy] == w.other(child))),
    (
        rf"In the end {N} had the \w+ {M} and {N} the \w+ {M}\.",
        lambda w, a, toy, b, wear: w.check((w.have[toy], w.have[wear]) == (a, b)),
    ),
    (
        rf"In the end the \w+ {M} were with {N} and the \w+ {M} with {N}\.",
        lambda w, wear, a, toy, b: w.check((w.have[toy], w.have[wear]) == (b, a)),
    ),
    (rf"{N} put the \w+ {PLACE}\.", lambda w, child, place: w.put(place, True)),
    (rf"{N} moved it secretly, and now it was {PLACE}\.", lambda w, child, place: w.put(place, False)),
    (rf"They moved it together, and now it was {PLACE}\.", lambda w, place: w.put(place, True)),
    (rf"After that {N} hid it {PLACE}\.", lambda w, child, place: w.put(place, False)),
    (rf"After that {N} took it and put it {PLACE}\.", lambda w, child, place: w.put(place, True)),
    (
        rf"{N} (?:went to look|wanted it back and looked) {PLACE}\.",
        lambda w, child, place: w.check((w.have[w.toy()], w.seen) == (child, place)),
    ),
    (rf"(?:The|.* saw the) \w+ {THING} (?:was )?{PLACE}\.", lambda w, place: w.check(w.where == place)),
]


def test_what_stories_say_follows_from_what_happened_in_them() -> None:
    """At least one consequence in each story, and three on average, by an interpreter that does not know the grammar."""
    checked = []
    for story in STORIES:
        world = World()
        for sentence in sentences(story):
            world.read(sentence)
        checked.append(world.checked)
    assert min(checked) >= 1 and statistics.fmean(checked) > 3


def last(story: str, words: set[str]) -> tuple[str, str, str] | None:
    """The story before its last word of these, this word, and the rest."""
    found = [*re.finditer(r"[A-Za-z-]+", story)]
    for word in reversed(found):
        if word.group() in words:
            return story[: word.start()], word.group(), story[word.end() :]
    return None


def test_any_other_number_in_the_end_is_refused_with_its_reason() -> None:
    tried = 0
    for story in [s for s in STORIES if "In the end" in s or "Together" in s][:60]:
        end = next(s for s in reversed(sentences(story)) if re.match("In the end|Together", s))
        split = last(end, {*NUMBERS})
        if split is None:
            continue
        for number in NUMBERS:
            changed = story.replace(end, split[0] + number + split[2])
            assert SECOND_GRADE.derivations(changed) == (number == split[1])
        problem = SECOND_GRADE.problem(story.replace(end, split[0] + "many" + split[2]))
        assert problem is not None and problem.read == "many" and problem.expected == (split[1],)
        assert re.match(rf"the (second number|sum) is {split[1]}: ", problem.because[0])
        tried += 1
    assert tried > 20


def test_the_other_child_or_another_place_in_the_end_is_refused() -> None:
    tried = 0
    for told in TOLD[:200]:
        words = {choice.name: choice.picked for choice in told.choices}
        swapped = {words["{child}"]: words["{friend}"], words["{friend}"]: words["{child}"]}
        end = sentences(told.text)[-1]
        changed = re.sub(r"\w+|\W+", lambda found, swapped=swapped: swapped.get(found.group(), found.group()), end)
        if re.match("So|In the end|.*had to go", end):
            assert SECOND_GRADE.derivations(told.text.replace(end, changed)) == 0
            tried += 1
        if "{where}" in words:
            places = {SECOND_GRADE.grammar.word("where", row) for row in range(SECOND_GRADE.grammar.rows("where"))}
            before, place, after = told.text.rpartition(words["{where}"])
            for other in places - {place}:
                assert SECOND_GRADE.derivations(before + other + after) == 0
                tried += 1
    assert tried > 200


def test_an_event_can_not_be_left_out_or_moved_behind_its_consequence() -> None:
    for story in STORIES[:60]:
        told = sentences(story)
        for i in range(1, len(told)):
            assert SECOND_GRADE.derivations(" ".join(told[:i] + told[i + 1 :])) == 0
            assert told[i] == told[i - 1] or SECOND_GRADE.derivations(" ".join([*told[:i], told[i], *told[i:]])) == 0


def test_every_sentence_is_accepted_by_itself() -> None:
    for story in STORIES[:200]:
        assert all(accepted for _, accepted in SECOND_GRADE.check_sentences(story)), story
    assert SECOND_GRADE.check_sentences("In the end Mia had two and Leo had two. Leo gave two to Leo.") == [
        ("In the end Mia had two and Leo had two.", False),  # Mia is in no story
        ("Leo gave two to Leo.", False),
    ]


def test_grades_do_not_mix() -> None:
    data = SecondGrade(StoriesConfig(seed=3, stories=100))
    train, val = list(data.documents("train")), list(data.documents("val"))
    assert (len(train), len(val)) == (100, 10) and not {*train} & {*val}
    assert data.entropy_floor == SECOND_GRADE.entropy_floor() != KINDERGARTEN.entropy_floor()
    assert all(KINDERGARTEN.parse(text[:-1]) is None for text in train)


class Uniform(torch.nn.Module):
    """Every next character equally likely, and a given story when asked to generate."""

    def __init__(self, story: str, made: CharTokenizer) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=made.vocab_size, block_size=64)
        self.zero = torch.nn.Parameter(torch.zeros(()))
        self.ids = [int(i) for i in made.encode(story + "\n")]

    def forward(self, idx: torch.Tensor, targets: Any = None, *, cache: Any = None, at: Any = None) -> Any:
        return self.zero.detach().expand(*idx.shape, self.config.vocab_size)[:, at], None


def test_the_evaluation_knows_its_grade(capsys: pytest.CaptureFixture[str]) -> None:
    made = CharTokenizer()
    made.fit(SecondGrade(StoriesConfig(stories=500)).documents("train"))
    wrong, known = STORIES[0] + " The end.", next(SECOND_GRADE.stories("train", 1, 1))
    telling = TellingSecondGrade(TellingConfig(stories=3))
    telling.tell = lambda *args: [STORIES[1], wrong, known]  # type: ignore[method-assign]
    config = {"input": {"second-grade": True, "stories": 20}}
    result = telling.evaluate(Uniform(wrong, made), made, config=config, progress=lambda done, total: None)
    assert result.metrics["stories accepted"][0] == pytest.approx(2 / 3)
    assert result.metrics["accepted ones that are new"][0] == 0.5
    assert result.metrics["entropy floor"] == (SECOND_GRADE.entropy_floor(), 0.0)
    loss, _ = result.metrics["loss (nats per character)"]
    assert loss == pytest.approx(math.log(made.vocab_size), abs=1e-4)
    floors = [-SECOND_GRADE.log_prob(story) for story in SECOND_GRADE.stories("val", 987_654_321, 3)]
    lengths = [len(story) + 1 for story in SECOND_GRADE.stories("val", 987_654_321, 3)]
    assert result.metrics["loss / floor"][0] == pytest.approx(loss * sum(lengths) / sum(floors))
    (line,) = [note for note in result.notes if "why: " in note]
    assert "pealm_kindergarten --grade second-grade --explain=" in line
    assert main(["--grade", "second-grade", "-n", "2", "--seed", "7"]) == 0
    assert capsys.readouterr().out.splitlines() == STORIES[:2]
    assert main(["--grade", "second-grade", "--explain", STORIES[0]]) == 0
    assert main(["--explain", STORIES[0]]) == 1


def test_a_run_and_its_evaluation(pealm: Callable[..., Any], tmp_path: Path) -> None:
    args = (
        "--input.second-grade",
        "--input.stories",
        200,
        "--steps",
        2,
        "--eval-tokens",
        500,
        "--out",
        tmp_path / "r",
    )
    result = pealm("train", "char-bigram", *args)
    assert result.code == 0, result.err
    assert f"(floor {SECOND_GRADE.entropy_floor():.4f})" in result.out
    result = pealm("eval", "--ckpt", tmp_path / "r", "--on", "second-grade", "--eval.stories", 2)
    assert result.code == 0 and "second-grade on char-bigram" in result.out, result.err
