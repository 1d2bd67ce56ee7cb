"""The engine on a small grammar whose stories can all be listed."""

import math
import random
import re
from collections import Counter
from collections.abc import Sequence

import pytest

from pealm_kindergarten import Exact, Grammar
from pealm_kindergarten.parts import sentences

SMALL = Grammar(
    tables={
        "CHILD": """
            name       he
            Mia        she
            Tom        he
            Alexander  he
        """,
        "PET": """
            pet
            cat
            dog
        """,
    },
    variables={"child": "CHILD", "friend": "CHILD", "pet": "PET"},
    rules={
        "story": ["<start> <end>", "Hello, {child}."],
        "start": ["{child} had a {pet}.", "{child} met {friend}."],
        "end": ["{child.He} saw {friend}.", "The {pet} <did>.", "{child} <did>."],
        "did": ["slept", "ate", "ran and ran"],
    },
)

# Registers: sums of draws from two tables and from one, a difference, something doubled, and who has the ball.
NUMBERS = """no one two three four five six seven eight nine ten eleven twelve thirteen fourteen"""
COUNTING = Grammar(
    tables={
        "CHILD": """
            name       he
            Mia        she
            Tom        he
            Alexander  he
        """,
        "NUMBER": "\n".join(["n", *NUMBERS.split()]),
        "FEW": "n\none\ntwo\nthree",
        "COUNT": "n\nsix\nseven",
    },
    variables={"child": "CHILD", "friend": "CHILD", "few": "FEW", "more": "FEW", "count": "COUNT"},
    registers={"sum": "NUMBER", "half": "NUMBER", "owner": "CHILD", "other": "CHILD"},
    apart=[("owner", "other")],
    rules={
        "story": ["<numbers>", "<ball>"],
        "numbers": ["I had {count} and {few}.{sum,half=count,few} <change> <change> <now>"],
        "now": ["Now I have {sum} and {half}."],
        "change": [
            "I found {more}.{sum=sum+more}",
            "I lost {few}.{sum=sum-few}",
            "I lost {few} and found {few}.{sum=sum-few+few}",
            "I doubled it.{half=half+half}",
            "I swapped them.{sum,half=half,sum}",
            "I put half aside and back.{sum=sum-half+half}",
        ],
        "ball": ["{child} met {friend}.{owner,other=child,friend} <pass> <pass> <has>"],
        "has": ["{owner} has it, not {other.he}."],
        "pass": ["{other} took it.{owner,other=other,owner}", "{owner.He} kept it."],
    },
)
GRAMMARS = pytest.mark.parametrize("grammar", [SMALL, COUNTING], ids=["variables", "registers"])


class Scripted(random.Random):
    """Plays back the given fractions, then zeros: the first option of every further choice."""

    def __init__(self, fractions: Sequence[float]) -> None:
        super().__init__(0)
        self._left = iter(fractions)

    def random(self) -> float:
        return next(self._left, 0.0)


def every_story(grammar: Grammar) -> list[tuple[str, float]]:
    """All tellings with their probabilities, by going through every sequence of choices; no parser involved."""
    told = []
    agenda: list[list[float]] = [[]]
    while agenda:
        script = agenda.pop()
        telling = grammar.tell(Scripted(script))
        choices = [choice for choice in telling.choices if choice.name[1:-1] not in grammar.registers]
        told.append((telling.text, math.prod(1 / choice.among for choice in choices)))
        for i in range(len(script), len(choices)):
            among = choices[i].among
            before = script + [0.0] * (i - len(script))
            agenda.extend([*before, (option + 0.5) / among] for option in range(1, among))
    return told


@GRAMMARS
def test_the_probabilities_of_all_stories_sum_to_one(grammar: Grammar):
    told = every_story(grammar)
    assert math.isclose(sum(p for _, p in told), 1.0)
    assert math.isclose(sum(math.exp(grammar.log_prob(text)) for text in {text for text, _ in told}), 1.0)


@GRAMMARS
def test_each_story_has_one_derivation_with_the_probability_it_was_told_with(grammar: Grammar):
    told = every_story(grammar)
    assert len({text for text, _ in told}) == len(told)
    for text, p in told:
        assert grammar.derivations(text) == 1
        assert math.isclose(grammar.log_prob(text), math.log(p))


@GRAMMARS
def test_exact_figures_agree_with_the_list_of_all_stories(grammar: Grammar):
    told, exact = every_story(grammar), Exact(grammar)
    assert exact.stories == len(told)
    assert math.isclose(exact.entropy, -sum(p * math.log(p) for _, p in told))
    assert math.isclose(exact.mean_length, sum(p * (len(text) + 1) for text, p in told))
    assert math.isclose(exact.floor, exact.entropy / exact.mean_length)
    assert exact.max_length >= max(len(text) + 1 for text, _ in told)


def test_the_longest_story_is_as_long_as_said_and_registers_may_have_two_rows():
    grammar = Grammar(
        tables={"FEW": "n\nno\none"},
        variables={"few": "FEW"},
        registers={"sum": "FEW", "same": "FEW"},
        rules={"story": ["I sleep.", "I had {few}.{sum=few}{same=sum} I have {same}."]},
    )
    told, exact = every_story(grammar), Exact(grammar)
    assert exact.max_length == max(len(text) + 1 for text, _ in told) == len("I had one. I have one.") + 1
    assert math.isclose(exact.mean_length, sum(p * (len(text) + 1) for text, p in told))


def test_telling_draws_each_story_with_its_probability():
    rng, n = random.Random(3), 20_000
    counts = Counter(SMALL.tell(rng).text for _ in range(n))
    told = every_story(SMALL)
    chi2 = sum((counts[text] - n * p) ** 2 / (n * p) for text, p in told)
    freedom = len(told) - 1
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom)


@GRAMMARS
def test_a_telling_and_its_parse_are_the_same_derivation(grammar: Grammar):
    for seed in range(200):
        telling = grammar.tell(random.Random(seed))
        assert grammar.parse(telling.text) == telling


def test_the_parser_finds_every_derivation_of_an_ambiguous_grammar():
    twice = Grammar(
        tables={"PET": "pet\ncat\ndog"},
        variables={"pet": "PET"},
        rules={"story": ["<a> slept.", "The cat slept.", "The <b> slept."], "a": ["The {pet}"], "b": ["{pet}"]},
    )
    assert twice.derivations("The cat slept.") == 3
    assert twice.derivations("The dog slept.") == 2
    assert twice.derivations("The cow slept.") == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Mia had a cat. He saw Tom.",  # whose pronoun?
        "Mia met Tom. She saw Alexander.",  # which friend?
        "Mia met Mia. She saw Mia.",  # a friend is somebody else
        "Mia had a cat. The dog slept.",
        "Mia had a cat.",
        "Mia had a cat. Mia slept. Mia slept.",
        "Mia had a cat. Mia slept.\n",
        "mia had a cat. Mia slept.",
    ],
)
def test_what_no_derivation_tells_is_no_story(text: str):
    assert SMALL.parse(text) is None
    assert SMALL.derivations(text) == 0
    assert SMALL.log_prob(text) == -math.inf


@pytest.mark.parametrize(
    "text",
    [
        "I had six and two. I found three. I lost two. Now I have eight and two.",  # seven
        "I had six and two. I found three. I doubled it. Now I have nine and two.",
        "I had six and two. I found three. I found one. Now I have ten and two.",  # found three before
        "I had six and two. I swapped them. I lost two. Now I have two and six.",
        "Tom met Mia. She kept it. She kept it. Mia has it, not he.",
        "Tom met Mia. Mia took it. She kept it. Tom has it, not she.",
    ],
)
def test_what_does_not_follow_from_a_register_is_no_story(text: str):
    assert COUNTING.derivations(text) == 0


def test_a_sentence_with_registers_counts_by_itself():
    assert COUNTING.accepts_sentence("Mia took it.")
    assert COUNTING.accepts_sentence("Now I have twelve and twelve.")
    assert COUNTING.accepts_sentence("Tom has it, not she.")
    assert not COUNTING.accepts_sentence("Mia has it, not she.")
    assert not COUNTING.accepts_sentence("Now I have twelve and many.")


def test_a_sentence_counts_by_itself_with_any_one_binding():
    assert SMALL.accepts_sentence("The dog slept.")
    assert SMALL.accepts_sentence("She saw Tom.")
    assert SMALL.accepts_sentence("Tom met Mia.")
    assert not SMALL.accepts_sentence("Mia met Mia.")
    assert not SMALL.accepts_sentence("She saw the dog.")
    assert not SMALL.accepts_sentence("The dog slept. Mia slept.")
    assert not SMALL.accepts_sentence("")


def test_sentences_are_split_behind_quotes_and_not_inside():
    assert sentences("") == []
    assert sentences('"Look!" said Mia. Tom said, "Where?" She laughed! Then') == [
        '"Look!" said Mia.',
        'Tom said, "Where?"',
        "She laughed!",
        "Then",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rules": {"begin": ["A."]}}, "needs the rule 'story'"),
        ({"rules": {"story": ["<lost>"]}}, "<story> calls <lost>, which is no rule"),
        ({"rules": {"story": ["<a>"], "a": ["x<story>"]}}, "<story> calls itself"),
        ({"rules": {"story": ["{cat}"]}}, "{cat}, which is no variable"),
        ({"rules": {"story": ["{pet.colour}"]}}, "its forms are pet"),
        ({"tables": {"PET": "pet  many\ncat  cats\ndog"}}, "does not fit its columns"),
        ({"tables": {"PET": "pet"}}, "has no rows"),
        ({"rules": {"story": ["{cat=pet}"]}}, "<story> sets {cat}, which is not a register"),
        ({"rules": {"story": ["{it=cat}"]}}, "<story> sets {it} to {cat}, which is no variable"),
        ({"rules": {"story": ["{it=few}"]}}, "<story> sets {it} to {few}, which is of another table"),
        ({"rules": {"story": ["{it=pet+pet}"]}}, "<story> sets {it} to a sum, but its words are no numbers"),
        ({"rules": {"story": ["{it=-pet}"]}}, "<story> sets {it} to a sum, but its words are no numbers"),
        ({"rules": {"story": ["{sum=it}"]}}, "<story> sets {sum} to {it}, which is of another table"),
        ({"rules": {"story": ["{sum=pet}"]}}, "<story> sets {sum} to {pet}, but its table has no 'cat'"),
        ({"rules": {"story": ["{sum,it=few}"]}}, "<story> sets 2 registers to 1 sums"),
    ],
)
def test_mistakes_in_the_data_are_named(change: dict[str, dict[str, object]], message: str):
    good = {
        "tables": {"PET": "pet\ncat", "FEW": "n\none", "NUMBER": "n\nno\none"} | change.pop("tables", {}),
        "variables": {"pet": "PET", "few": "FEW"},
        "registers": {"it": "PET", "sum": "NUMBER"},
        "rules": {"story": ["A {pet}."]},
    }
    with pytest.raises(ValueError, match=re.escape(message)):
        Grammar(**(good | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("story", "message"),
    [
        ("I had {few}.{sum=few+few} Now I have {sum}.", "{sum} can be 2, for which its table has no word"),
        ("I had {few}.{sum=few-few-few} I have {sum}.", "{sum} can be -1, for which its table has no word"),
        ("I had {few}.{sum=few+few} I sleep.", "{sum} can be 2, for which its table has no word"),
        ("I have {sum}.", "{sum} is mentioned before it is set"),
        ("I have none.{sum=few} I have {few}.", "{sum} is set to {few}, which no sentence before it has"),
    ],
)
def test_mistakes_that_only_some_stories_have_are_found(story: str, message: str):
    grammar = Grammar(
        tables={"FEW": "n\none", "NUMBER": "n\nno\none"},
        variables={"few": "FEW"},
        registers={"sum": "NUMBER"},
        rules={"story": ["I sleep.", story]},
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        _ = Exact(grammar).entropy
