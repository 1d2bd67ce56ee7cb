"""The second grade: longer stories of two children, in which things change hands and numbers change.

Registers have what a story does not repeat: who has a thing, where it is, how many of something each child has.
A model has to infer them: add, subtract, and follow a thing from hand to hand and from place to place. Between the
events that matter there are some that change nothing.
"""

from .plots import RULES as FIRST
from .words import TABLES as WORDS

_NUMBERS = """
    number
    no
    one
    two
    three
    four
    five
    six
    seven
    eight
    nine
    ten
    eleven
    twelve
    thirteen
    fourteen
    fifteen
    sixteen
    seventeen
    eighteen
    nineteen
    twenty
    twenty-one
    twenty-two
    twenty-three
    twenty-four
"""

TABLES = {name: WORDS[name] for name in ("CHILD", "COLOUR", "TOY")} | {
    "WEAR": """
        wear
        boots
        gloves
        mittens
        slippers
        trousers
        earmuffs
    """,
    "TREASURE": """
        treasure
        acorns
        buttons
        feathers
        marbles
        nuts
        pennies
        shells
    """,
    "COUNT": """
        count
        four
        five
        six
        seven
        eight
    """,
    "FEW": """
        few
        one
        two
        three
    """,
    "PLACE": """
        place
        under the bed
        behind the door
        in the cupboard
        on the shelf
        in a bucket
        near the stairs
        inside the piano
    """,
    "NUMBER": _NUMBERS,
}

VARIABLES = {
    "child": "CHILD",
    "friend": "CHILD",
    "colour": "COLOUR",
    "tint": "COLOUR",
    "toy": "TOY",
    "wear": "WEAR",
    "treasure": "TREASURE",
    "count": "COUNT",
    "amount": "COUNT",
    "few": "FEW",
    "more": "FEW",
    "rest": "FEW",
    "place": "PLACE",
    "nook": "PLACE",
    "corner": "PLACE",
}

REGISTERS = {
    "owner": "CHILD",  # has the toy
    "other": "CHILD",  # has not
    "wearer": "CHILD",  # has the clothes
    "bare": "CHILD",  # has not
    "where": "PLACE",  # the toy is there
    "seen": "PLACE",  # its owner saw it there
    "first_number": "NUMBER",  # what the child has
    "second_number": "NUMBER",  # what the friend has
    "sum": "NUMBER",
}

APART = [("owner", "other"), ("wearer", "bare")]

_SHARED = ("when", "adult", "Adult", "outside", "long", "happy", "roof", "fine", "small", "treat")

RULES = {name: FIRST[name] for name in _SHARED} | {
    "story": ["<counting>", "<giving>", "<trading>", "<hiding>", "<busy>", "<afternoon>"],
    # The plots.
    "counting": ["<meet> <start> <first> <aside> <second> <told> <third> <tally> <home>"],
    "giving": ["<meet> <have> <pass> <aside> <pass> <pass> <aside> <pass> <whose> <home>"],
    "trading": ["<meet> <have> <dressed> <pass> <lend> <aside> <trade> <pass> <lend> <both>"],
    "hiding": ["<meet> <have> <hide> <move> <aside> <again> <look> <find> <whose>"],
    "busy": ["<meet> <start> <have> <first> <pass> <second> <pass> <third> <tally> <whose>"],
    "afternoon": ["<meet> <have> <pass> <dressed> <lend> <trade> <hide> <move> <look> <find> <both>"],
    # Two children meet; what else happens changes nothing.
    "meet": [
        "<when> {child} and {friend} met <outside>.",
        "<when> {child} went to see {friend}.",
        "{child} and {friend} played <outside> <long>.",
    ],
    "aside": [
        '"What a <fine> day!" said <adult>.',
        "<Adult> gave them <treat>.",
        "A <small> dog came by.",
        "It rained on the <roof>.",
        "They sang a <small> song.",
    ],
    "home": [
        "Then they went home.",
        "{child} was <happy>.",
        "{friend} was <happy>.",
    ],
    # Numbers: each child loses some once at most, and has at least one in the end.
    "start": [
        "{child} had {count} {treasure} and {friend} had {amount}.{first_number,second_number=count,amount}",
        "{friend} had {count} {treasure} and {child} had {amount}.{second_number,first_number=count,amount}",
    ],
    "first": [
        "{child} found {few} more.{first_number=first_number+few}",
        "{friend} found {few} more.{second_number=second_number+few}",
        "{child} lost {few} of {child.his} {treasure}.{first_number=first_number-few}",
        "{child} gave {few} to {friend}.{first_number,second_number=first_number-few,second_number+few}",
    ],
    "second": [
        "{child} got {more} more from <adult>.{first_number=first_number+more}",
        "{friend} got {more} more from <adult>.{second_number=second_number+more}",
        "{friend} lost {more} of {friend.his} {treasure}.{second_number=second_number-more}",
        "{friend} gave {more} to {child}.{second_number,first_number=second_number-more,first_number+more}",
    ],
    "third": [
        "{child} picked up {rest} more.{first_number=first_number+rest}",
        "{friend} picked up {rest} more.{second_number=second_number+rest}",
        "<Adult> gave {rest} to each of them.{first_number,second_number=first_number+rest,second_number+rest}",
    ],
    "told": [
        "By now {child} had {first_number}.",
        "By now {friend} had {second_number}.",
        "They counted again and again.",
    ],
    "tally": [
        "In the end {child} had {first_number} and {friend} had {second_number}.",
        "{sum=first_number+second_number}Together they had {sum} {treasure}.",
    ],
    # Who has the toy.
    "have": [
        "{child} had {colour.a} {toy}.{owner,other=child,friend}",
        "{friend} had {colour.a} {toy}.{owner,other=friend,child}",
    ],
    "pass": [
        "{owner} gave the {toy} to {other}.{owner,other=other,owner}",
        "{other} took the {toy}.{owner,other=other,owner}",
        "{other} asked for the {toy}, but {owner} kept it.",
        "{owner} showed {other} the {toy}.",
        "{owner} played with the {toy} <long>.",
    ],
    "whose": [
        "So {owner} took the {colour} {toy} home.",
        "{other} had to go home without the {colour} {toy}.",
    ],
    # Who has the clothes.
    "dressed": [
        "{child} wore {tint} {wear}.{wearer,bare=child,friend}",
        "{friend} wore {tint} {wear}.{wearer,bare=friend,child}",
    ],
    "lend": [
        "{wearer} lent {bare} the {wear}.{wearer,bare=bare,wearer}",
        "{bare} wanted the {wear}, but {wearer} was cold.",
        "{bare} liked {wearer}'s {wear}.",
    ],
    "trade": [
        "Then each took what the other had.{owner,other,wearer,bare=other,owner,bare,wearer}",
        "They did not want to trade.",
    ],
    "both": [
        "In the end {owner} had the {colour} {toy} and {wearer} the {tint} {wear}.",
        "In the end the {tint} {wear} were with {wearer} and the {colour} {toy} with {owner}.",
    ],
    # Where the toy is, and where its owner believes it to be.
    "hide": ["{owner} put the {toy} {place}.{where,seen=place,place}"],
    "move": [
        "{other} moved it secretly, and now it was {nook}.{where=nook}",
        "They moved it together, and now it was {nook}.{where,seen=nook,nook}",
        "Nobody touched it <long>.",
    ],
    "again": [
        "After that {other} hid it {corner}.{where=corner}",
        "After that {owner} took it and put it {corner}.{where,seen=corner,corner}",
        "After that they forgot all about it.",
    ],
    "look": ["{owner} went to look {seen}.", "{owner} wanted it back and looked {seen}."],
    "find": [
        "The {colour} {toy} was {where}.",
        "<Adult> saw the {colour} {toy} {where}.",
    ],
}
