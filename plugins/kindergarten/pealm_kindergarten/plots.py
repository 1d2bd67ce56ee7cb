"""The plots: rules whose alternatives are equally likely.

`<rule>` is replaced by one of that rule's alternatives. `{variable.form}` is drawn from its table (see words.py)
where a story mentions it first, and stays the same row from then on; a capital letter in front of the form
makes one in the text: `{child.He}`. `{variable}` alone is the first column.

A story has one child, one colour, one count, and so on: what comes back is always the nearest earlier word of its
class, which even a model of a minute's training can learn. All the rest is free, and there is plenty of it.
"""

RULES = {
    "story": [
        "<lost>",
        "<runaway>",
        "<picking>",
        "<puddles>",
        "<bedtime>",
        "<baking>",
        "<birthday>",
        "<garden>",
        "<painting>",
        "<snowman>",
    ],
    # Phrases that several plots share.
    "when": [
        "One day",
        "One morning",
        "After lunch",
        "After school",
        "On Monday",
        "On Tuesday",
        "On Friday",
        "On Sunday",
        "In spring",
        "In autumn",
        "This week",
    ],
    "adult": ["Mum", "Dad", "Granny", "Grandpa", "Uncle Ben", "Aunt May", "the baker", "the farmer"],
    "Adult": ["Mum", "Dad", "Granny", "Grandpa", "Uncle Ben", "Aunt May", "The baker", "The farmer"],
    "outside": [
        "in the park",
        "in the garden",
        "in the street",
        "by the pond",
        "by the river",
        "behind the barn",
        "on the hill",
        "near the school",
        "near the station",
        "under a tree",
        "under the bridge",
        "at the market",
        "at the beach",
        "at the zoo",
    ],
    "inside": [
        "under the bed",
        "under the table",
        "under the carpet",
        "behind the door",
        "behind the sofa",
        "behind the piano",
        "in the bath",
        "in the cupboard",
        "in the laundry",
        "in the oven",
        "on the shelf",
        "on the stairs",
    ],
    "long": ["all day", "all week", "all afternoon", "until dark", "until supper", "for hours"],
    "number": ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
    # Lost and found: the colour and the toy stay what they were.
    "lost": ["<find> <enjoy> <lose> <return> <glad>"],
    "find": [
        "<when> {child} found {colour.a} {toy}.",
        "{child} found {colour.a} {toy} <outside>.",
    ],
    "enjoy": [
        "{child.He} loved the {colour} {toy}.",
        "{child.He} played with the {colour} {toy} <long>.",
    ],
    "lose": [
        "But then the {colour} {toy} was gone.",
        "But then {child.he} lost the {colour} {toy}.",
    ],
    "return": [
        "<Adult> found the {colour} {toy} <inside>.",
        "A <small> dog brought the {colour} {toy} back.",
    ],
    "glad": [
        "{child} was <happy>.",
        "{child} danced <joy>.",
    ],
    "happy": ["happy again", "very glad", "so proud", "merry once more"],
    "joy": ["with joy", "around the house", "in the rain", "like a bear"],
    "small": ["little", "clever", "playful", "shy", "sweet", "curious", "fluffy", "funny", "noisy", "lazy"],
    # A pet runs away and comes back: it keeps its name and its voice.
    "runaway": ["<pet> <escape> <search> <comeback> <comfort>"],
    "pet": ["{child} had a <small> {pet} named {petname}."],
    "escape": [
        "<when> {petname} ran away.",
        "<when> {petname} was gone.",
    ],
    "search": [
        "{child} looked for {petname} <outside>.",
        "{child} called {petname} <loudly>.",
    ],
    "loudly": ["again and again", "from the window", "until bedtime", "as loud as thunder"],
    "comeback": [
        "At last {petname} the {pet} came home and {pet.sang}.",
        "At night {petname} the {pet} came back and {pet.sang}.",
    ],
    "comfort": [
        "{child} gave {petname} a <warm> hug.",
        "{child} gave {petname} <treat>.",
    ],
    "warm": ["big", "long", "warm", "tight"],
    "treat": ["some milk", "some cheese", "some bread", "a biscuit", "a new basket", "a soft blanket"],
    # Picking fruit: the count stays the same.
    "picking": ["<pick> <pack> <admire> <eat>"],
    "pick": [
        "<when> {child} picked {count} {fruit.many}.",
        "{child} picked {count} {fruit.many} <outside>.",
    ],
    "pack": [
        "{child.He} put the {count} {fruit.many} in a <box>.",
        "{child.He} washed the {count} {fruit.many} <washed>.",
    ],
    "box": ["box", "bag", "basket", "bucket", "bowl", "jar"],
    "washed": ["in the river", "in the sink", "with cold water", "one by one"],
    "admire": [
        '"What <fine> {fruit.many}!" said <adult>.',
        '"I love {fruit.many}," said <adult>.',
    ],
    "fine": ["fine", "big", "lovely", "bright", "little", "round", "ripe", "juicy"],
    "eat": [
        "{child} ate the {count} {fruit.many} <outside>.",
        "{child} made a <pie> of the {count} {fruit.many}.",
    ],
    "pie": ["pie", "cake", "soup", "jam", "salad"],
    # Rain and puddles.
    "puddles": ["<rain> <dress> <splash> <mud> <dry>"],
    "rain": ["<when> it rained and rained.", "<when> rain fell on the <roof>."],
    "roof": ["roof", "trees", "town", "hills", "fields"],
    "dress": [
        "{child} put on {child.his} {colour} {wear}.",
        "{child} found {child.his} {colour} {wear} <inside>.",
    ],
    "splash": [
        "{child.He} jumped into <number> <wide> puddles.",
        "{child.He} ran through <number> <wide> puddles.",
    ],
    "wide": ["wide", "deep", "cold", "brown", "muddy", "dirty"],
    "mud": [
        "Soon the {colour} {wear} {wear.was} full of <mess>.",
        "Soon the {colour} {wear} {wear.was} <wet>.",
    ],
    "mess": ["mud", "water", "leaves", "frogs", "sand", "worms"],
    "wet": ["wet", "very dirty", "not clean any more", "heavy and cold"],
    "dry": [
        "{child} only <laughed>.",
        "{child} wanted to stay <long>.",
    ],
    "laughed": ["laughed", "smiled", "sang", "splashed some more", "asked for more rain"],
    # Bedtime: the hero of the story comes back in the dream.
    "bedtime": ["<awake> <tale> <lair> <dream>"],
    "awake": [
        "{child} could not sleep.",
        "{child} was afraid of the <dark>.",
    ],
    "dark": ["dark", "thunder", "wind", "storm", "moon"],
    "tale": [
        "<Adult> told {child.him} about a <trait> {hero}.",
        "<Adult> read {child.him} a story about a <trait> {hero}.",
    ],
    "trait": ["brave", "grumpy", "kind", "silly", "sleepy", "tiny", "wise", "hungry", "polite"],
    "lair": [
        "The {hero} lived <far>.",
        "The {hero} had <number> <things>.",
    ],
    "far": [
        "in a cave",
        "in a castle",
        "in a teapot",
        "in a forest",
        "on the moon",
        "on a cloud",
        "on an island",
        "under the sea",
    ],
    "things": ["beds", "cats", "clocks", "crowns", "hats", "ships", "spoons", "swords", "shoes"],
    "dream": [
        "That night {child} dreamed of the {hero}.",
        "In a dream the {hero} asked {child} to <visit>.",
    ],
    "visit": ["tea", "play", "dance", "sing", "a picnic", "a party"],
    # Baking.
    "baking": ["<bake> <stir> <smell> <praise>"],
    "bake": [
        "<when> {child} baked {flavour.a} {bake}.",
        "{child} and <adult> baked {flavour.a} {bake}.",
    ],
    "stir": [
        "{child.He} mixed the eggs and the <flour>.",
        "There was flour <dusty>.",
    ],
    "flour": ["butter", "sugar", "milk", "cream", "salt"],
    "dusty": ["on the floor", "on the cat", "in {child.his} hair", "on {child.his} nose", "in every corner"],
    "smell": ["Soon the <whole> smelled of {flavour} {bake}."],
    "whole": ["house", "kitchen", "street", "town", "school", "village"],
    "praise": [
        "{child} gave the {flavour} {bake} to <adult>.",
        "{child} ate <number> slices of {flavour} {bake}.",
    ],
    # Birthday: as many candles as years.
    "birthday": ["<age> <candles> <gift> <treasured>"],
    "age": ["Today {child} was {count} years old."],
    "candles": [
        "{child.He} blew out {count} candles and wished for <wished>.",
        "There were {count} candles on the <cake>.",
    ],
    "cake": ["cake", "table", "pudding"],
    "wished": ["a pony", "a boat", "a brother", "a sister", "snow", "more cake", "a rocket"],
    "gift": [
        "<Adult> gave {child.him} {colour.a} {toy}.",
        "<Adult> came with {colour.a} {toy} in a <box>.",
    ],
    "treasured": [
        "{child} took the {colour} {toy} to bed.",
        "{child} played with the {colour} {toy} <long>.",
    ],
    # The garden: what was planted comes up.
    "garden": ["<sow> <care> <grow> <harvest>"],
    "sow": [
        "<when> {child} planted {count} {plant} seeds.",
        "{child} planted {count} {plant} seeds <bed>.",
    ],
    "bed": ["by the wall", "by the fence", "in a pot", "in a row", "in the sun"],
    "care": [
        "{child.He} watered them every <often>.",
        "{child.He} sang to them every <often>.",
    ],
    "often": ["day", "morning", "evening", "Monday", "Tuesday", "Sunday"],
    "grow": ["Up came {count} <fine> {plant.many}."],
    "harvest": [
        "{child} gave the {count} {plant.many} to <adult>.",
        "{child} was proud of the {count} {plant.many}.",
    ],
    # A painting that not everyone believes in.
    "painting": ["<paint> <feature> <opinion> <hang>"],
    "paint": [
        "<when> {child} painted {colour.a} {animal}.",
        "{child} painted {colour.a} {animal} <outside>.",
    ],
    "feature": ["The {colour} {animal} had <oddity>."],
    "oddity": [
        "a long tail",
        "a tall hat",
        "a big smile",
        "one tooth",
        "two wings",
        "three ears",
        "six legs",
        "big feet",
        "a tiny umbrella",
    ],
    "opinion": [
        '"I like {colour} {animal.many}," said <adult>.',
        '"Who ever saw {colour} {animal.many}?" asked <adult>.',
    ],
    "hang": [
        "{child} put the {colour} {animal} <wall>.",
        "{child} gave the {colour} {animal} to <adult>.",
    ],
    "wall": ["on the wall", "above the bed", "on the fridge", "in a golden frame"],
    # A snowman, as long as it lasts.
    "snowman": ["<snow> <build> <dressed> <thaw>"],
    "snow": ["<when> it snowed <long>.", "<when> snow fell on the <roof>."],
    "build": ["{child} built a <trait> snowman <outside>."],
    "dressed": [
        "{child.He} gave the snowman {child.his} {colour} {wear}.",
        "The snowman wore {child.his} {colour} {wear}.",
    ],
    "thaw": [
        "In the morning only the {colour} {wear} {wear.was} left.",
        "{child} took the {colour} {wear} back <later>.",
    ],
    "later": ["the next day", "in the evening", "when the sun came out", "after a week"],
}
