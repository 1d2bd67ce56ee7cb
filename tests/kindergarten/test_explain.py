"""Every way to break a story is noticed where it happens, and explained."""

import re
from collections.abc import Callable, Iterable, Iterator

import pytest

import pealm_kindergarten as kg
from pealm_kindergarten.parts import sentences

OTHER = {"he": "she", "she": "he", "his": "her", "him": "her", "He": "She", "She": "He"}


def swap_word(story: str, words: dict[str, str], *, first: int) -> tuple[str, int, str] | None:
    """Swap the first word of `words` from the sentence number `first` on: the new story, where, and the old word."""
    start = len(" ".join(sentences(story)[:first]))
    for found in re.finditer(r"[A-Za-z]+", story):
        if found.start() > start and found.group() in words:
            changed = story[: found.start()] + words[found.group()] + story[found.end() :]
            return changed, found.start(), found.group()
    return None


def wrong_pronoun(story: str) -> tuple[str, int, str] | None:
    return swap_word(story, OTHER, first=0)


def wrong_colour(story: str) -> tuple[str, int, str] | None:
    """Another colour than the one that was mentioned first."""
    colours = {"red": "blue", "blue": "green", "green": "pink", "golden": "silver"}
    return swap_word(story, colours, first=sentences_up_to(story, colours))


def wrong_count(story: str) -> tuple[str, int, str] | None:
    """Another number than the one that follows from the first."""
    numbers = ["three", "four", "five", "six", "seven", "eight", "nine"]
    later = dict(zip(numbers, numbers[1:] + numbers[:1], strict=True))
    return swap_word(story, later, first=sentences_up_to(story, numbers[3:]))


def sentences_up_to(story: str, words: Iterable[str]) -> int:
    """How many sentences there are up to the first that has one of the words."""
    told = sentences(story)
    return next((i for i, s in enumerate(told, 1) if set(re.findall(r"\w+", s)) & set(words)), len(told))


def broken(change: Callable[[str], tuple[str, int, str] | None], n: int) -> Iterator[tuple[str, int, str]]:
    told = (change(kg.story(21, index)) for index in range(100_000))
    return (found for found, _ in zip(filter(None, told), range(n), strict=False))


@pytest.mark.parametrize(
    ("change", "variable"), [(wrong_pronoun, "child"), (wrong_colour, "colour"), (wrong_count, "count")]
)
def test_a_wrong_agreement_is_found_at_its_word(change: Callable[[str], tuple[str, int, str] | None], variable: str):
    for story, at, right in broken(change, 100):
        assert kg.derivations(story) == 0
        problem = kg.problem(story)
        assert problem is not None
        assert (problem.at, story[at:].startswith(problem.read)) == (at, True)
        assert right in problem.expected
        assert any(reason.startswith(f"the {variable} is ") for reason in problem.because), kg.explain(story)
        assert f"'{right}'" in kg.explain(story)


def test_a_missing_sentence_is_noticed():
    for index in range(100):
        told = sentences(kg.story(22, index))
        for i in range(len(told)):
            story = " ".join(told[:i] + told[i + 1 :])
            problem = kg.problem(story)
            assert problem is not None
            assert problem.sentence <= i + 2  # a first sentence is missed where its words are needed
            assert "expected" in kg.explain(story)


def test_an_extra_sentence_is_noticed_where_it_stands():
    for index in range(100):
        told = sentences(kg.story(23, index))
        for i in range(1, len(told) + 1):
            story = " ".join([*told[:i], "The moon was made of cheese.", *told[i:]])
            problem = kg.problem(story)
            assert problem is not None
            assert problem.sentence == i + 1
            assert "no story has this sentence" in kg.explain(story)
            assert kg.problem(" ".join([*told[:i], told[i - 1], *told[i:]])) is not None


def test_a_story_that_goes_on_is_told_to_end():
    story = kg.story(0, 0)
    assert kg.problem(story + " The end.").expected == ("the end of the story",)
    assert "expected the end of the story" in kg.explain(story + " The end.")


def test_a_story_that_breaks_off_is_told_to_go_on():
    problem = kg.problem(" ".join(sentences(kg.story(0, 0))[:-1]))
    assert (problem.read, problem.expected) == ("", ("another sentence",))
    assert kg.check_sentences(problem.example) == [(problem.example, True)]


def test_the_example_would_have_done():
    for story, at, _ in broken(wrong_colour, 50):
        problem = kg.problem(story)
        healed = [*sentences(story)[: problem.sentence - 1], problem.example]
        following = kg.problem(" ".join(healed))
        assert following is None or following.at > at


def test_a_derivation_reads_well():
    lines = kg.explain(kg.story(0, 0)).splitlines()
    assert lines[0].startswith("<story>") and "(1 of " in lines[0]
    assert re.fullmatch(r"One derivation: \d+\.\d\d nats, \d+ characters with the end mark\.", lines[-1])
