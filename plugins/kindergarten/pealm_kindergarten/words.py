"""The words: one table a class, one word a row, its forms in the columns (two spaces apart).

A variable stands for one row of its table. Within a table the first letters differ, and no other capital letter
begins a child's name: a small model that reads letters then needs to remember one letter to say the word again.
"""

VARIABLES = {
    "child": "CHILD",
    "colour": "COLOUR",
    "toy": "TOY",
    "wear": "WEAR",
    "pet": "PET",
    "petname": "PETNAME",
    "animal": "ANIMAL",
    "hero": "HERO",
    "fruit": "FRUIT",
    "plant": "PLANT",
    "flavour": "FLAVOUR",
    "bake": "BAKE",
    "count": "COUNT",
}

TABLES = {
    "CHILD": """
        name    he   him  his
        Ella    she  her  her
        Kate    she  her  her
        Rosa    she  her  her
        Zoe     she  her  her
        Finn    he   him  his
        Jack    he   him  his
        Leo     he   him  his
        Viktor  he   him  his
    """,
    "COLOUR": """
        colour  a
        red     a red
        blue    a blue
        green   a green
        yellow  a yellow
        pink    a pink
        orange  an orange
    """,
    "TOY": """
        toy
        ball
        car
        drum
        kite
        robot
        teddy
    """,
    "WEAR": """
        wear     was
        boots    were
        coat     was
        gloves   were
        jacket   was
        mittens  were
        scarf    was
    """,
    "PET": """
        pet       sang
        kitten    purred
        puppy     barked
        rabbit    hopped
        duckling  quacked
        lamb      bleated
        goose     honked
    """,
    "PETNAME": """
        name
        Coco
        Noodle
        Pickle
        Quincy
        Yoyo
    """,
    "ANIMAL": """
        animal    many       a
        cow       cows       a cow
        donkey    donkeys    a donkey
        elephant  elephants  an elephant
        lion      lions      a lion
        owl       owls       an owl
        penguin   penguins   a penguin
        zebra     zebras     a zebra
    """,
    "HERO": """
        hero
        bear
        dragon
        giant
        king
        pirate
        queen
        whale
    """,
    "FRUIT": """
        fruit   many
        apple   apples
        berry   berries
        cherry  cherries
        lemon   lemons
        pear    pears
    """,
    "PLANT": """
        plant    many
        bean     beans
        carrot   carrots
        daisy    daisies
        melon    melons
        pumpkin  pumpkins
        radish   radishes
        tulip    tulips
    """,
    "FLAVOUR": """
        flavour  a
        banana   a banana
        ginger   a ginger
        honey    a honey
        nut      a nut
        plum     a plum
    """,
    "BAKE": """
        bake
        cake
        loaf
        pie
        tart
    """,
    "COUNT": """
        count
        two
        five
        seven
        eight
        nine
    """,
}
