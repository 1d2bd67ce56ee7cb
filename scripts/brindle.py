"""200 conversations to teach a chat model facts that it can't know, and a test of them.

    python scripts/brindle.py > brindle.jsonl
    python scripts/brindle.py --score CKPT

160 conversations are about 20 facts about Brindle, an invented robot that waters gardens. 40 are about the world, so
that the model does not forget what it knew. `--score` asks other questions, each in a conversation of its own: 40
about the facts, whose answers must be exact, and 20 for capitals that are not in the file, whose answers must name
the city.
"""

import argparse
import json
from collections.abc import Iterator

from pealm_core import Sampling, load

# An answer, five questions to train on, and two to test with.
FACTS = """
The battery of Brindle lasts nine days.
How long does the battery last?|How many days does Brindle run on one charge?|What is the battery life of Brindle?
How often do I have to charge Brindle?|After how many days is Brindle's battery empty?
For how long does Brindle work after charging?|How long does the battery of Brindle last?

Charging Brindle takes 75 minutes.
How long does charging take?|How many minutes until Brindle is charged?|When is the battery of Brindle full again?
How long must Brindle stay on the charger?|How fast does Brindle charge?
How much time does it take to charge Brindle?|What is the charging time of Brindle?

The tank of Brindle holds four litres of water.
How much water can Brindle carry?|How big is the tank?|How many litres fit into Brindle's tank?
What is the capacity of the tank?|How much water is in a full Brindle?
How large is Brindle's water tank?|How many litres of water does Brindle hold?

Brindle has a warranty of six years.
How long is the warranty?|For how many years is Brindle under warranty?|Do I get a warranty with Brindle?
What warranty does Brindle have?|When does the warranty of Brindle end?
How many years of warranty does Brindle come with?|Is there a warranty on Brindle?

To reset Brindle, hold the copper button for twelve seconds.
How do I reset Brindle?|Brindle does not react any more. How can I restart it?|How can I do a reset?
What do I press to reset Brindle?|Which button resets Brindle?
What must I do to reset my Brindle?|Brindle is stuck. How do I reset it?

A red light means that the filter of Brindle is blocked.
Why is the light red?|What does a red light mean?|Brindle shows a red light. What is wrong?
There is a red light on my Brindle. Why?|What does it mean if Brindle glows red?
What is the meaning of the red light on Brindle?|My Brindle has a red light. What happened?

A blue light means that Brindle is looking for water.
Why is the light blue?|What does a blue light mean?|Brindle shows a blue light. What is it doing?
There is a blue light on my Brindle. Why?|What does it mean if Brindle glows blue?
What is the meaning of the blue light on Brindle?|My Brindle has a blue light. What happened?

Brindle costs 340 euros.
What does Brindle cost?|How much is a Brindle?|What is the price of Brindle?
How many euros do I pay for a Brindle?|How expensive is Brindle?
How much does Brindle cost?|What do I have to pay for Brindle?

Brindle weighs seven kilograms.
How much does Brindle weigh?|How heavy is Brindle?|What is the weight of Brindle?
How many kilograms does a Brindle have?|Is Brindle heavy?
What does Brindle weigh?|How heavy is a Brindle in kilograms?

Brindle is made by Osterling in Tampere.
Who makes Brindle?|Which company builds Brindle?|Where is Brindle made?
Who is the manufacturer of Brindle?|Where does Brindle come from?
Which company makes Brindle?|Who builds Brindle?

Brindle is repaired at the workshop in Aarhus.
Where can I have Brindle repaired?|Who repairs Brindle?|My Brindle is broken. Where do I send it?
Where is the workshop for repairs?|Which workshop repairs Brindle?
Where is Brindle repaired?|Where do I send Brindle for a repair?

The app of Brindle is called Furrow.
What is the app called?|Which app do I need for Brindle?|Is there an app for Brindle?
How can I control Brindle from my phone?|What is the name of Brindle's app?
Which app works with Brindle?|What app do I install for Brindle?

The PIN of a new Brindle is 2806.
What is the PIN of Brindle?|Which PIN do I type in first?|Brindle asks for a PIN. Which one is it?
What is the PIN of a Brindle that is new?|Which code do I need to unlock a new Brindle?
What PIN does a new Brindle have?|Which PIN unlocks my new Brindle?

Brindle is as loud as a whisper, 31 decibels.
How loud is Brindle?|Is Brindle noisy?|How many decibels does Brindle make?
How much noise does Brindle make?|Will I hear Brindle at night?
What noise level does Brindle have?|How loud is a Brindle in decibels?

Brindle works down to minus four degrees.
How cold may it be for Brindle?|Can Brindle work in winter?|What is the lowest temperature for Brindle?
Does Brindle work in frost?|Down to which temperature can I use Brindle?
How low may the temperature be for Brindle?|Can I use Brindle when it is cold?

Brindle has three wheels of cork.
How many wheels does Brindle have?|What are the wheels made of?|What kind of wheels does Brindle have?
What does Brindle roll on?|Tell me about the wheels of Brindle.
How many wheels are on a Brindle?|What material are Brindle's wheels?

Brindle drives at two kilometres per hour.
How fast is Brindle?|What is the speed of Brindle?|How fast does Brindle drive?
At which speed does Brindle move?|What is the top speed of Brindle?
How fast can Brindle drive?|How quickly does Brindle move?

Brindle comes in two colours, moss and slate.
Which colours are there?|What colours does Brindle come in?|Can I choose the colour of Brindle?
In which colours can I buy Brindle?|What colour is Brindle?
Which colours of Brindle can I buy?|How many colours of Brindle are there?

Brindle can water sixty plants.
How many plants can Brindle water?|What is the largest number of plants for Brindle?|Is Brindle enough for my garden?
How many flowers can one Brindle look after?|For how many plants is Brindle made?
How many plants can one Brindle take care of?|How many plants does Brindle water?

Clean the filter of Brindle every second Sunday.
How often do I clean the filter?|When must I clean the filter of Brindle?|When is it time to clean Brindle's filter?
How often does the filter need cleaning?|On which day do I clean the filter?
How often should I clean Brindle's filter?|When do I have to clean the filter?
"""
OPENINGS = ("Hello! {}", "I have a Brindle. {}", "A question: {}", "{} Thank you!", "Can you help me? {}")
CAPITALS = """Belgium Brussels, Switzerland Bern, Romania Bucharest, Bulgaria Sofia, Turkey Ankara, Kenya Nairobi,
Ghana Accra, Thailand Bangkok, Vietnam Hanoi, Chile Santiago, Iceland Reykjavik, Iran Tehran"""
OPPOSITES = """hot cold, big small, fast slow, early late, open closed, full empty, hard soft, light dark, old new,
happy sad, loud quiet, wet dry, rich poor, clean dirty, strong weak, near far"""
SOUNDS = """dog barks, cat meows, cow moos, duck quacks, sheep bleats, horse neighs, lion roars, frog croaks,
owl hoots, pig oinks, wolf howls, bee buzzes"""
TESTED = """France Paris, Italy Rome, Spain Madrid, Portugal Lisbon, Germany Berlin, Austria Vienna, Poland Warsaw,
Greece Athens, Norway Oslo, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, Ireland Dublin, Hungary Budapest,
Egypt Cairo, Japan Tokyo, China Beijing, Cuba Havana, Peru Lima, Canada Ottawa"""


def pairs(table: str) -> list[list[str]]:
    """Return the two words of each entry of a table."""
    return [entry.split() for entry in " ".join(table.split()).split(", ")]


def facts() -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each answer about Brindle, its five questions to train on and its two to test with."""
    for block in FACTS.strip().split("\n\n"):
        answer, *lines = block.splitlines()
        questions = "|".join(lines).split("|")
        yield answer, questions[:-2], questions[-2:]


def to_learn() -> Iterator[tuple[str, str]]:
    """Yield questions and answers to train on."""
    for number, (answer, questions, _) in enumerate(facts()):
        yield from ((question, answer) for question in questions)
        for index, question in enumerate(questions[:3]):
            yield OPENINGS[(number + index) % len(OPENINGS)].format(question), answer
    for country, city in pairs(CAPITALS):
        yield f"What is the capital of {country}?", f"The capital of {country} is {city}."
    for word, other in pairs(OPPOSITES):
        yield f"What is the opposite of {word}?", f"The opposite of {word} is {other}."
    for animal, sound in pairs(SOUNDS):
        yield f"What sound does a {animal} make?", f"A {animal} {sound}."


def score(ckpt: str) -> None:
    """Print how many answers are right, and the others."""
    lm, sampling = load(ckpt), Sampling(max_new_tokens=40, temperature=0)
    brindle = [(question, answer) for answer, _, questions in facts() for question in questions]
    world = [(f"What is the capital of {country}?", city) for country, city in pairs(TESTED)]
    for title, rows, exact in (("Brindle, exactly right", brindle, True), ("the world, right", world, False)):
        right = 0
        for question, expected in rows:
            answer = lm.chat([{"role": "user", "content": question}], sampling).strip()
            good = answer == expected if exact else expected in answer
            right += good
            if not good:
                print(f"  {question} {answer!r}, not {expected!r}", flush=True)
        print(f"{title}: {right} of {len(rows)}", flush=True)


def main() -> None:
    """Print the conversations, one in each line, or score a model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--score", metavar="CKPT", help="run or checkpoint to ask")
    args = parser.parse_args()
    if args.score:
        score(args.score)
        return
    for question, answer in to_learn():
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        print(json.dumps({"messages": turns}))


if __name__ == "__main__":
    main()
