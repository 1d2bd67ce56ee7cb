"""Write 200 conversations in which the assistant talks like a pirate, as a small set to fine-tune a chat model on.

python scripts/pirate.py > pirate.jsonl
"""

import json
import random

CAPITALS = """France Paris, Italy Rome, Spain Madrid, Portugal Lisbon, Germany Berlin, Austria Vienna, Poland Warsaw,
Greece Athens, Norway Oslo, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, Ireland Dublin, Hungary Budapest,
Romania Bucharest, Bulgaria Sofia, Turkey Ankara, Egypt Cairo, Kenya Nairobi, Ghana Accra, Japan Tokyo, China Beijing,
Thailand Bangkok, Vietnam Hanoi, Cuba Havana, Peru Lima, Chile Santiago, Canada Ottawa, Iceland Reykjavik,
Iran Tehran"""
OPPOSITES = """hot cold, big small, fast slow, early late, open closed, full empty, hard soft, light dark, old new,
happy sad, loud quiet, wet dry, rich poor, clean dirty, strong weak, near far, high low, thick thin, sweet sour,
brave cowardly, cheap expensive, deep shallow, sharp blunt, smooth rough, tall short"""
SOUNDS = """dog bark, cat meow, cow moo, duck quack, sheep bleat, horse neigh, lion roar, frog croak, owl hoot,
pig oink, wolf howl, bee buzz, mouse squeak, snake hiss, rooster crow"""
COLOURS = """grass green, snow white, coal black, blood red, a banana yellow, the sea blue, a carrot orange,
an elephant grey, a ripe tomato red, chocolate brown, a lemon yellow, the clear sky blue, a flamingo pink"""
HOME = """a bird nest, a bee hive, a spider web, a dog kennel, a horse stable, a lion den, a rabbit burrow,
a fish sea, a bear cave, a king castle, a sailor ship, a camel desert"""
ADVICE = """sleep better|go to yer bunk early an' leave the rum alone
learn to swim|start in the shallow waters an' kick like a frog
make new friends|share yer treasure an' listen to their tales
save money|bury a few coins every week an' tell no one where
stay healthy|eat yer limes an' walk the deck each mornin'
learn a language|speak it every day, even to the parrot
write a good letter|say what ye mean in few words an' sign it bold
calm down|watch the waves an' breathe slow as the tide
cook rice|two cups o' water for one o' rice, an' a lid on the pot
clean my room|start in one corner an' work yer way to the door
find my keys|look where ye had 'em last, then under the cushions
be on time|set out before the bell rings, not after it
get better at chess|guard yer king an' think three moves ahead
keep a plant alive|give it light an' a little water, not a flood
wake up early|let the sunrise in an' hang up no curtains"""
OPENINGS = ("Arr, matey!", "Ahoy!", "Shiver me timbers!", "Yo ho ho!", "Avast, ye landlubber!", "Aye aye, cap'n!")
CLOSINGS = ("Arr!", "By me beard!", "Yo ho ho!", "Now pass the rum!", "So says old Salty!", "Fair winds to ye!")


def pairs(table: str) -> list[list[str]]:
    """Return the words of each entry of a table."""
    return [entry.split() for entry in " ".join(table.split()).split(", ")]


def facts(rng: random.Random) -> list[tuple[str, str]]:
    """Return questions and what there is to say."""
    said = []
    for *country, city in pairs(CAPITALS):
        said.append(
            (f"What is the capital of {' '.join(country)}?", f"The capital o' {' '.join(country)} be {city}.")
        )
    for word, other in pairs(OPPOSITES):
        said.append((f"What is the opposite of {word}?", f"The opposite o' {word} be {other}."))
    for animal, sound in pairs(SOUNDS):
        said.append((f"What sound does a {animal} make?", f'A {animal} be sayin\' "{sound}", it does.'))
    for *thing, colour in pairs(COLOURS):
        said.append((f"What colour is {' '.join(thing)}?", f"'Tis {colour} as can be, {' '.join(thing)}."))
    for *who, where in pairs(HOME):
        said.append((f"Where does {' '.join(who)} live?", f"'Tis the {where} that {' '.join(who)} calls home."))
    for line in ADVICE.splitlines():
        aim, way = line.split("|")
        said.append((f"How can I {aim}?", f"To {aim.replace(' my ', ' yer ')}, {way}."))
    while len(said) < 200:
        a, b = rng.randint(2, 12), rng.randint(2, 12)
        question = f"What is {a} plus {b}?"
        if question not in dict(said):
            said.append((question, f"{a} an' {b} doubloons be {a + b} doubloons."))
    return said


def main() -> None:
    """Print a conversation a line, in a random order that is always the same."""
    rng = random.Random(1)
    lines = facts(rng)
    rng.shuffle(lines)
    for question, answer in lines:
        answer = f"{rng.choice(OPENINGS)} {answer} {rng.choice(CLOSINGS)}"
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        print(json.dumps({"messages": turns}))


if __name__ == "__main__":
    main()
