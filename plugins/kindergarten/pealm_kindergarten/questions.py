"""Questions about a story, and their answers, from the story's derivation.

A question is written as the rules of stories are: `{toy}` is the word of the story, `{=inside}` what was picked for a
rule in the same sentence, `{!pet}` another word of the table. A line has the kind, the rule of a sentence, what the
picked alternative must contain, the question and the answer. Where it does not contain it, the story does not say.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from .corpus import KINDERGARTEN
from .parts import Call, Derivation, Mention
from .plots import RULES

UNKNOWN = "The story does not say."
UNANSWERABLE = 0.1  # of the questions

_LINES = {
    "lost": """
        who     find    -          Who found the {toy} first?               It was {child}.
        colour  find    -          What colour was the {toy}?               It was {colour}.
        what    find    -          What did {child} find?                   It was {colour.a} {toy}.
        where   find    <outside>  Where did {child} find the {toy}?        It was {=outside}.
        when    find    <when>     When did {child} find the {toy}?         It was {=when}.
        long    enjoy   <long>     How long did {child} play with the {toy}?  It was {=long}.
        who     return  <Adult>    Who found the {toy} again?               It was {=Adult}.
        who     return  <small>    Who found the {toy} again?               It was a {=small} dog.
        where   return  <inside>   Where was the {toy} in the end?          It was {=inside}.
    """,
    "runaway": """
        who     pet       -          Who had a {pet}?                           It was {child}.
        name    pet       -          What was the name of the {pet}?            It was {petname}.
        animal  pet       -          Was {petname} a {pet} or a {!pet}?         It was a {pet}.
        like    pet       -          What was {petname} like?                   It was {=small}.
        when    escape    -          When did {child} lose {petname}?           It was {=when}.
        where   search    <outside>  Where did {child} look for {petname}?      It was {=outside}.
        when    comeback  At_night   When did {petname} come back?              It was at night.
        what    comfort   <treat>    What did {child} give {petname}?           It was {=treat}.
        what    comfort   <warm>     What did {child} give {petname}?           It was a {=warm} hug.
    """,
    "picking": """
        who    pick    -          Who picked the {fruit.many}?              It was {child}.
        count  pick    -          How many {fruit.many} did {child} pick?   There were {count}.
        what   pick    -          What did {child} pick?                    There were {count} {fruit.many}.
        where  pick    <outside>  Where did {child} pick the {fruit.many}?  It was {=outside}.
        when   pick    <when>     When did {child} pick the {fruit.many}?   It was {=when}.
        where  pack    <box>      Where did {child} put the {fruit.many}?   It was in a {=box}.
        who    admire  -          Who talked about the {fruit.many}?        It was {=adult}.
        where  eat     <outside>  Where did {child} eat the {fruit.many}?   It was {=outside}.
        what   eat     <pie>      What did {child} make of the {fruit.many}?  It was a {=pie}.
    """,
    "puddles": """
        who     dress   -         Who had {colour} {wear}?                It was {child}.
        colour  dress   -         What colour {wear.was} the {wear}?      The {wear} {wear.was} {colour}.
        where   dress   <inside>  Where {wear.was} the {wear} before?     The {wear} {wear.was} {=inside}.
        count   splash  -         How many puddles were there?            There were {=number}.
        like    splash  -         What were the puddles like?             They were {=wide}.
        when    rain    -         When did it rain?                       It was {=when}.
        where   rain    <roof>    Where did the rain fall?                It was on the {=roof}.
        what    mud     <mess>    What {wear.was} the {wear} full of?     It was {=mess}.
        long    dry     <long>    How long did {child} want to stay?      It was {=long}.
    """,
    "bedtime": """
        who    tale   -        Who told or read the story?                 It was {=Adult}.
        what   tale   -        What was the story about?                   It was a {=trait} {hero}.
        like   tale   -        What was the {hero} like?                   It was {=trait}.
        where  lair   <far>    Where did the {hero} live?                  It was {=far}.
        what   lair   <things>  What did the {hero} have?                  There were {=number} {=things}.
        count  lair   <number>  How many things did the {hero} have?      There were {=number}.
        who    dream  -        Who had the dream?                          It was {child}.
        what   awake  <dark>   What was {child} afraid of?                 It was the {=dark}.
    """,
    "baking": """
        who      bake    <when>    Who baked the {bake}?                   It was {child}.
        who      bake    <adult>   Who baked the {bake}?                   It was {child} and {=adult}.
        what     bake    -         What did {child} bake?                  It was {flavour.a} {bake}.
        flavour  bake    -         What did the {bake} taste of?           It was {flavour}.
        when     bake    <when>    When did {child} bake?                  It was {=when}.
        what     stir    <flour>   What did {child} mix with the eggs?     It was the {=flour}.
        where    stir    <dusty>   Where was the flour?                    It was {=dusty}.
        where    smell   -         Where did it smell of {bake}?           It was the {=whole}.
        who      praise  <adult>   Who got the {bake}?                     It was {=adult}.
        count    praise  <number>  How many slices did {child} eat?        There were {=number}.
    """,
    "birthday": """
        who     age        -         Who had a birthday?                       It was {child}.
        age     age        -         How old was {child}?                      It was {count}.
        count   candles    -         How many candles were there?              There were {count}.
        wish    candles    <wished>  What did {child} wish for?                It was {=wished}.
        where   candles    <cake>    Where were the candles?                   It was on the {=cake}.
        who     gift       -         Who gave {child} the {toy}?               It was {=Adult}.
        what    gift       -         What did {child} get?                     It was {colour.a} {toy}.
        colour  gift       -         What colour was the {toy}?                It was {colour}.
        where   gift       <box>     What was the {toy} in?                    It was in a {=box}.
        long    treasured  <long>    How long did {child} play with the {toy}?  It was {=long}.
    """,
    "garden": """
        who    sow      -        Who planted the seeds?                 It was {child}.
        count  sow      -        How many seeds did {child} plant?      There were {count}.
        what   sow      -        What did {child} plant?                There were {plant} seeds.
        when   sow      <when>   When did {child} plant the seeds?      It was {=when}.
        where  sow      <bed>    Where did {child} plant the seeds?     It was {=bed}.
        often  care     watered  How often did {child} water the seeds?  It was every {=often}.
        often  care     sang     How often did {child} sing?            It was every {=often}.
        like   grow     -        What were the {plant.many} like?       They were {=fine}.
        who    harvest  <adult>  Who got the {plant.many}?              It was {=adult}.
    """,
    "painting": """
        who     paint    -          Who painted the {animal}?             It was {child}.
        what    paint    -          What did {child} paint?               It was {colour.a} {animal}.
        colour  paint    -          What colour was the {animal}?         It was {colour}.
        where   paint    <outside>  Where did {child} paint the {animal}?  It was {=outside}.
        when    paint    <when>     When did {child} paint the {animal}?  It was {=when}.
        what    feature  -          What did the {animal} have?           It was {=oddity}.
        who     opinion  I_like     Who liked the {animal}?               It was {=adult}.
        where   hang     <wall>     Where did {child} put the {animal}?   It was {=wall}.
        who     hang     <adult>    Who got the {animal}?                 It was {=adult}.
    """,
    "snowman": """
        who     build    -        Who built the snowman?                     It was {child}.
        where   build    -        Where was the snowman?                     It was {=outside}.
        like    build    -        What was the snowman like?                 It was {=trait}.
        what    dressed  -        What did the snowman wear?                 It was {child.his} {wear}.
        colour  dressed  -        What colour {wear.was} the {wear}?         The {wear} {wear.was} {colour}.
        when    snow     -        When did it snow?                          It was {=when}.
        long    snow     <long>   How long did it snow?                      It was {=long}.
        where   snow     <roof>   Where did the snow fall?                   It was on the {=roof}.
        when    thaw     <later>  When did {child} take the {wear} back?     It was {=later}.
    """,
}
_ANYWHERE = """
    age   -  -  How old was {child}?                 -
    wish  -  -  What did {child} wish for?           -
    name  -  -  What was the name of {child}'s dog?  -
"""  # the story does not say, except where its plot has the question


@dataclass(frozen=True)
class Question:
    """A question about a story, its kind, and its answer; known: the story says it."""

    kind: str
    text: str
    answer: str
    known: bool


@dataclass(frozen=True)
class _Line:
    kind: str
    rule: str
    needs: str
    question: str
    answer: str


@cache
def _lines(plot: str) -> tuple[_Line, ...]:
    rows = [line.split(None, 3) for line in _LINES[plot].strip().splitlines()]
    lines = []
    for kind, rule, needs, rest in rows:
        question, _, answer = rest.partition("?")
        lines.append(_Line(kind, rule, needs.strip("-").replace("_", " "), question + "?", answer.strip()))
    for row in _ANYWHERE.strip().splitlines():
        kind, _, _, rest = row.split(None, 3)
        question = rest.partition("?")[0] + "?"
        if question not in {line.question for line in lines}:
            lines.append(_Line(kind, "", "", question, ""))
    return tuple(lines)


def questions(story: Derivation, rng: random.Random) -> list[Question]:
    """Return every question about a story, in the order of the plot."""
    facts, plot, done = _Facts(story, rng), story.plot.strip("<>"), dict[str, Question]()
    for line in _lines(plot):
        text = facts.fill(line.question, line.rule)
        if line.rule and line.needs in facts.alternative(line.rule):
            done[text] = Question(line.kind, text, facts.fill(line.answer, line.rule), True)
        else:
            done.setdefault(text, Question(line.kind, text, UNKNOWN, False))
    return list(done.values())


def ask(story: Derivation, rng: random.Random, n: int) -> list[Question]:
    """Draw n different questions about a story; a tenth of all questions can't be answered from it."""
    pool, chosen = questions(story, rng), list[Question]()
    for _ in range(n):
        known = rng.random() >= UNANSWERABLE
        rest = [question for question in pool if question.known == known and question not in chosen]
        chosen += [rest[int(rng.random() * len(rest))]] if rest else []
    return chosen


class _Facts:
    """What a derivation says: the rows of its variables, and what was picked in each of its sentences."""

    def __init__(self, story: Derivation, rng: random.Random) -> None:
        self.grammar, self.rng = KINDERGARTEN.grammar, rng
        self.words: dict[str, int] = {}
        self.picked: dict[str, dict[str, str]] = {}  # rule of a sentence → rule → alternative
        sections = {
            part.rule for part in self.grammar.parts(RULES[story.plot.strip("<>")][0]) if isinstance(part, Call)
        }
        section = ""
        for choice in story.choices[1:]:
            name = choice.name[1:-1]
            if choice.name.startswith("{"):
                words = [self.grammar.word(name, row) for row in range(self.grammar.rows(name))]
                self.words[name] = words.index(choice.picked)
                continue
            section = name if name in sections and name not in self.picked else section
            self.picked.setdefault(section, {}).setdefault(name, choice.picked)

    def alternative(self, rule: str) -> str:
        """Return the alternative that was picked for a sentence."""
        return self.picked[rule][rule]

    def fill(self, source: str, rule: str) -> str:
        """Return a question or an answer with the story's words."""
        for name, picked in self.picked.get(rule, {}).items():
            picked = picked[0].lower() + picked[1:] if picked.startswith(_LOWER) else picked
            source = source.replace("{=" + name + "}", picked)
        while "{!" in source:
            source = self._either(source)
        parts = self.grammar.parts(source)
        return "".join(
            part.says[self.words[part.variable]] if isinstance(part, Mention) else str(part) for part in parts
        )

    def _either(self, source: str) -> str:
        """Put another word of a table beside the story's, in a random order."""
        name = source.partition("{!")[2].partition("}")[0]
        row = self.words[name]
        others = [self.grammar.word(name, other) for other in range(self.grammar.rows(name)) if other != row]
        pair = [self.grammar.word(name, row), others[int(self.rng.random() * len(others))]]
        if self.rng.random() < 0.5:
            pair.reverse()
        return source.replace("{" + name + "}", pair[0], 1).replace("{!" + name + "}", pair[1], 1)


_LOWER = ("One ", "After ", "On ", "In ", "This ", "The ")


def conversation(story: Derivation, asked: Sequence[Question]) -> Iterator[dict[str, str]]:
    """Yield the messages: the story and the first question in one line, then answers and more questions."""
    for number, question in enumerate(asked):
        yield {"role": "user", "content": question.text if number else f"{story.text} {question.text}"}
        yield {"role": "assistant", "content": question.answer}
