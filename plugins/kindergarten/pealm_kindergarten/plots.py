"""The plots: rules whose alternatives are equally likely.

`<rule>` is replaced by one of that rule's alternatives. `{variable.form}` is drawn from its table (see words.py)
where a story mentions it first, and stays the same row from then on; a capital letter in front of the form
makes one in the text: `{child.He}`. `{variable}` alone is the first column.
"""

RULES = {
    "story": [
        "<lost>",
        "<runaway>",
        "<sharing>",
        "<puddles>",
        "<bedtime>",
        "<baking>",
        "<birthday>",
        "<garden>",
        "<painting>",
    ],
    # Phrases that several plots share.
    "when": [
        "One day",
        "One fine morning",
        "After lunch",
        "After school",
        "On Monday",
        "On Friday",
        "On Sunday",
        "Last week",
    ],
    "outside": [
        "in the park",
        "by the pond",
        "in the garden",
        "behind the barn",
        "on the hill",
        "near the school",
        "under a tree",
        "by the river",
        "in the street",
        "at the market",
    ],
    "inside": [
        "under the bed",
        "under the table",
        "behind the door",
        "behind the sofa",
        "behind the piano",
        "in the bath",
        "in the cupboard",
        "in the laundry",
        "on the shelf",
        "on the stairs",
    ],
    # Lost and found: colour and toy stay what they were.
    "lost": ["<find> <admire> <lose> <return> <thanks>"],
    "find": [
        "<when> {child} found {colour.a} {toy} <outside>.",
        "<when> {child} went for a walk and found {colour.a} {toy}.",
    ],
    "admire": [
        "{child.He} played with it all day.",
        "{child.He} took it home and showed it to {adult}.",
    ],
    "lose": [
        "But then {child.he} lost the {colour} {toy}.",
        "But the next day the {colour} {toy} was gone.",
    ],
    "return": [
        "At last {friend} found the {colour} {toy} <inside>.",
        "Then {friend} saw the {colour} {toy} <inside>.",
    ],
    "thanks": [
        '"Thank you, {friend}!" said {child}.',
        "{child} gave {friend} a big hug.",
    ],
    # A pet runs away and comes back: it keeps its name, its voice and its favourite food.
    "runaway": ["<pet> <escape> <lure> <comeback> <cuddle>"],
    "pet": ["{child} had a <small> {pet} named {petname}."],
    "small": ["little", "clever", "playful", "shy", "sweet", "curious"],
    "escape": [
        "<when> {petname} slipped out of the gate.",
        "<when> the gate was open and {petname} was gone.",
    ],
    "lure": [
        "{child} looked <outside>, but saw no {pet}.",
        "{child} put {pet.treat} by the gate and waited.",
    ],
    "comeback": [
        "Soon {petname} came home and {pet.sang} for joy.",
        "In the morning {petname} was back and {pet.sang} for joy.",
    ],
    "cuddle": [
        "{petname} slept in {child.his} bed that night.",
        "{child} never left the gate open again.",
    ],
    # Sharing: the sums are right.
    "sharing": ["<plenty> <hungry> <give> <eat>"],
    "plenty": [
        "{child} had {count} <tasty> {food.many}.",
        "{adult} gave {child} {count} <tasty> {food.many}.",
    ],
    "tasty": ["sweet", "tasty", "fresh", "big", "small", "round"],
    "hungry": [
        "{friend} had none and was very hungry.",
        "{friend} looked at them and sighed.",
    ],
    "give": [
        "{child} gave {friend} one {food} and had {count.less} left.",
        "{child} gave {friend} two {food.many} and had {count.fewer} left.",
    ],
    "eat": [
        "They sat <outside> and ate them all.",
        '"{food.Many} are best with a friend," said {child}.',
    ],
    # Rain and puddles.
    "puddles": ["<rain> <dress> <splash> <mud> <more>"],
    "rain": [
        "It rained all morning.",
        "<when> it rained and rained.",
    ],
    "dress": [
        "{child} put on {child.his} {colour} {wear} and ran out.",
        "{child} went out in {child.his} new {colour} {wear}.",
    ],
    "splash": ["{child.He} jumped into {count} <wide> puddles."],
    "wide": ["wide", "deep", "cold", "brown", "lovely"],
    "mud": [
        "Soon the {colour} {wear} {wear.was} full of mud.",
        "The {colour} {wear} {wear.was} not {colour} any more.",
    ],
    "more": [
        '"More rain, please!" said {child}.',
        "Back home {adult} made <drink>.",
    ],
    "drink": ["hot soup", "hot cocoa", "warm milk", "apple tea", "mint tea"],
    # Bedtime: the hero of the story comes back in the dream.
    "bedtime": ["<awake> <tale> <lair> <dream>"],
    "awake": [
        "It was late, but {child} could not sleep.",
        "It was dark, and {child} was a little afraid.",
    ],
    "tale": [
        "{adult} told {child.him} about a {trait} {hero}.",
        "{adult} read a story about a {trait} {hero}.",
    ],
    "lair": ["The {hero} lived <far> and had {count} <things>."],
    "far": [
        "in a cave",
        "in a castle",
        "in a teapot",
        "on the moon",
        "on a cloud",
        "under the sea",
    ],
    "things": ["cats", "clocks", "crowns", "hats", "ships", "spoons"],
    "dream": [
        "That night {child.he} dreamed of the {trait} {hero}.",
        "In {child.his} dream the {trait} {hero} came to tea.",
    ],
    # Baking.
    "baking": ["<bake> <stir> <smell> <praise> <crumb>"],
    "bake": ["<when> {adult} and {child} baked {flavour.a} {bake}."],
    "stir": [
        "{child} mixed the butter, the eggs and the flour.",
        "There was flour <dusty>.",
    ],
    "dusty": ["on the floor", "on the cat", "in {child.his} hair", "on {child.his} nose"],
    "smell": ["Soon the house smelled of {flavour}."],
    "praise": [
        '"What a good {flavour} {bake}!" said {friend}.',
        '"I love {flavour} {bake}," said {friend}.',
    ],
    "crumb": [
        "Only one crumb was left for the mouse.",
        "Next time they will bake two.",
    ],
    # Birthday: as many candles as years.
    "birthday": ["<age> <gift> <candles> <wish> <treasured>"],
    "age": ["Today {child} was {count} years old."],
    "gift": [
        "{friend} gave {child.him} {colour.a} {toy}.",
        "{friend} came with {colour.a} {toy} in a box.",
    ],
    "candles": ["There were {count} candles on the cake."],
    "wish": [
        "{child} blew hard and made a secret wish.",
        "{child} blew hard and wished for <wished>.",
    ],
    "wished": ["a pony", "a brother", "a sister", "snow", "more cake"],
    "treasured": [
        "{child} took the {colour} {toy} to bed.",
        "They danced and played with the {colour} {toy}.",
    ],
    # The garden: what was planted comes up, and the sums are right again.
    "garden": ["<sow> <care> <grow> <raid> <forgive>"],
    "sow": [
        "{child} planted {count} {plant} seeds by the wall.",
        "In spring {child} planted {count} {plant} seeds.",
    ],
    "care": [
        "{child.He} watered them every <often>.",
        "{child.He} sang to them every <often>.",
    ],
    "often": ["day", "morning", "evening", "Monday", "Sunday"],
    "grow": ["Up came {count} <fine> {plant.many}."],
    "fine": ["fine", "big", "lovely", "bright", "little"],
    "raid": [
        "But {thief.a} ate one and left {count.less}.",
        "But {thief.a} ate two and left {count.fewer}.",
    ],
    "forgive": [
        '"{thief.Many} must eat too," said {child}.',
        "{child} only laughed and fed the {thief}.",
    ],
    # A painting.
    "painting": ["<paint> <feature> <doubt> <reply> <follow>"],
    "paint": ["<when> {child} painted {colour.a} {animal}."],
    "feature": ["It had <oddity>."],
    "oddity": [
        "a long tail",
        "six legs",
        "three ears",
        "a tall hat",
        "two wings",
        "a big smile",
        "one tooth",
    ],
    "doubt": [
        '"{animal.Many} are not {colour}," said {friend}.',
        '"Who ever saw {colour.a} {animal}?" asked {friend}.',
    ],
    "reply": [
        '"Mine is special," said {child}.',
        "{child} only smiled and painted one more.",
    ],
    "follow": [
        "Now {friend} paints {colour} {animal.many} too.",
        "That night {friend} dreamed of {colour} {animal.many}.",
    ],
}
