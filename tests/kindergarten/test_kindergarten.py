"""The stories: whole, unambiguous, coherent, and as improbable as the rules say."""

import math
import random
import re
import statistics
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pealm_kindergarten as kg
from pealm_kindergarten import words
from pealm_kindergarten.parts import sentences

STORIES = [kg.story(7, index) for index in range(4000)]


def test_every_story_has_exactly_one_derivation():
    assert {kg.derivations(story) for story in STORIES} == {1}


def test_every_alternative_and_every_word_is_used_somewhere():
    grammar = kg.KINDERGARTEN.grammar
    choices = {(c.name, c.picked) for story in STORIES for c in kg.parse(story).choices}
    for rule, alternatives in grammar.rules.items():
        assert {a.source for a in alternatives} == {picked for name, picked in choices if name == f"<{rule}>"}
    assert {f"{{{variable}}}" for variable in words.VARIABLES} <= {name for name, _ in choices}
    assert set(words.VARIABLES.values()) == set(words.TABLES)


def test_the_empirical_mean_of_surprisal_agrees_with_the_entropy():
    surprisals = [-kg.log_prob(story) for story in STORIES]
    stderr = statistics.stdev(surprisals) / math.sqrt(len(surprisals))
    assert abs(statistics.fmean(surprisals) - kg.entropy()) < 4 * stderr


def test_the_empirical_mean_length_agrees_with_the_exact_one():
    lengths = [len(story) + 1 for story in STORIES]
    stderr = statistics.stdev(lengths) / math.sqrt(len(lengths))
    assert abs(statistics.fmean(lengths) - kg.mean_length()) < 4 * stderr
    assert kg.entropy_floor() == kg.entropy() / kg.mean_length()


def test_stories_fit_a_block_of_256_with_their_end_mark():
    assert max(len(story) + 1 for story in STORIES) <= kg.max_length() < 256


def test_stories_are_plain_and_of_three_to_six_sentences():
    allowed = set(string.ascii_letters + " .,!?\"'")
    for story in STORIES:
        assert set(story) <= allowed
        assert 3 <= len(sentences(story)) <= 6
        assert story.count('"') % 2 == 0
        assert "  " not in story and story == story.strip()


def test_grammar_of_english_where_it_can_be_checked():
    for story in STORIES:
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", story), story
        for sentence in sentences(story):
            assert re.match(r'"?[A-Z]', sentence) and re.search(r'[.!?]"?$', sentence)


def test_the_vocabulary_is_of_300_to_500_words():
    vocabulary = {word for story in STORIES for word in re.findall(r"[a-z']+", story.lower())}
    assert 300 <= len(vocabulary) <= 500


def test_there_are_too_many_stories_to_memorise():
    assert kg.KINDERGARTEN.exact.stories > 1e8
    assert len(set(STORIES)) == len(STORIES)


def test_a_seed_and_an_index_name_one_story_for_good():
    assert kg.story(0, 0) == (
        "Kate found a red car at the market. She played with the red car all week. But then she lost the red car. The baker found the red car on the stairs. Kate was merry once more."
    )
    assert kg.story(0, 0) != kg.story(0, 1)
    assert kg.story(1, 0) != kg.story(0, 0)
    assert list(kg.stories("train", 5, 30))[:10] == list(kg.stories("train", 5, 10))
    assert kg.generate(random.Random(3)) == kg.generate(random.Random(3))


def test_no_story_is_in_both_splits():
    train = {story for seed in (0, 1) for story in kg.stories("train", seed, 1000)}
    val = {story for seed in (0, 1) for story in kg.stories("val", seed, 200)}
    assert not train & val
    assert {kg.split(story) for story in train} == {"train"}
    assert {kg.split(story) for story in val} == {"val"}
    share = statistics.fmean(kg.split(story) == "val" for story in STORIES)
    assert abs(share - 0.1) < 4 * math.sqrt(0.09 / len(STORIES))


def test_the_split_does_not_change_what_stories_are_like():
    for name in ("train", "val"):
        surprisals = [-kg.log_prob(story) for story in kg.stories(name, 11, 1000)]
        stderr = statistics.stdev(surprisals) / math.sqrt(len(surprisals))
        assert abs(statistics.fmean(surprisals) - kg.entropy()) < 4 * stderr


def test_a_split_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="'test'; it must be 'train' or 'val'"):
        next(kg.stories("test", 0, 1))  # type: ignore[arg-type]


def test_every_sentence_of_a_story_is_accepted_by_itself_and_a_shuffled_word_is_not():
    for story in STORIES[:300]:
        told = kg.check_sentences(story)
        assert [sentence for sentence, _ in told] == sentences(story)
        assert all(accepted for _, accepted in told)
    assert kg.check_sentences("Mia gave Mia a big hug. Hello there. She watered them every day.") == [
        ("Mia gave Mia a big hug.", False),
        ("Hello there.", False),
        ("She watered them every day.", True),
    ]


@given(st.integers(0, 10**6), st.data())
def test_a_changed_letter_is_noticed_or_makes_another_story(index: int, data: st.DataObject):
    story = kg.story(99, index)
    at = data.draw(st.integers(0, len(story) - 1))
    letter = data.draw(st.sampled_from(string.ascii_letters))
    changed = story[:at] + letter + story[at + 1 :]
    if kg.parse(changed) is None:
        problem = kg.problem(changed)
        assert problem is not None
        # "On Monday" with an I is still the beginning of "In spring": what is wrong may show later than it was done.
        assert 0 <= problem.at <= len(changed)
        assert problem.expected and kg.explain(changed)
    else:
        assert kg.derivations(changed) == 1
        assert kg.problem(changed) is None


@given(st.text(max_size=60))
def test_any_text_is_explained(text: str):
    assert kg.explain(text)
    assert (kg.problem(text) is None) == (kg.derivations(text) == 1)


def test_diversity_tells_a_varied_sample_from_a_monotonous_one():
    varied, same = kg.diversity(STORIES[:500]), kg.diversity(STORIES[:1] * 500)
    assert (varied.n, varied.accepted, varied.distinct) == (500, 500, 1.0)
    assert (same.accepted, same.distinct, same.plots, same.skeletons) == (500, 1 / 500, 0.0, 0.0)
    assert varied.plots > 0.97 * math.log(len(kg.KINDERGARTEN.grammar.rules["story"]))
    assert varied.skeletons > 4.0
    assert varied.distinct_3 > 10 * same.distinct_3
    nonsense = kg.diversity(["what is this"])
    assert (nonsense.accepted, nonsense.plots, nonsense.distinct_3) == (0, 0.0, 1.0)
    with pytest.raises(ValueError, match="at least one"):
        kg.diversity([])
