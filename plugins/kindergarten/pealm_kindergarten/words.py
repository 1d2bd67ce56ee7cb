"""The words: one table a class, one word a row, its forms in the columns (two spaces apart).

A variable stands for one row of its table. Two variables of one table never take the same row, so a
`friend` is somebody else than the `child`.
"""

VARIABLES = {
    "child": "CHILD",
    "friend": "CHILD",
    "adult": "ADULT",
    "colour": "COLOUR",
    "toy": "TOY",
    "wear": "WEAR",
    "pet": "PET",
    "petname": "PETNAME",
    "animal": "ANIMAL",
    "hero": "HERO",
    "trait": "TRAIT",
    "food": "FOOD",
    "plant": "PLANT",
    "thief": "THIEF",
    "flavour": "FLAVOUR",
    "bake": "BAKE",
    "count": "COUNT",
}

TABLES = {
    "CHILD": """
        name   he   him  his
        Anna   she  her  her
        Ella   she  her  her
        Ivy    she  her  her
        Lily   she  her  her
        Mia    she  her  her
        Nora   she  her  her
        Rosa   she  her  her
        Zoe    she  her  her
        Ben    he   him  his
        Finn   he   him  his
        Hugo   he   him  his
        Leo    he   him  his
        Max    he   him  his
        Noah   he   him  his
        Sam    he   him  his
        Tom    he   him  his
    """,
    "ADULT": """
        name
        Mum
        Dad
        Granny
        Grandpa
    """,
    "COLOUR": """
        colour  a
        red     a red
        blue    a blue
        green   a green
        yellow  a yellow
        pink    a pink
        purple  a purple
        orange  an orange
        silver  a silver
        golden  a golden
    """,
    "TOY": """
        toy
        ball
        boat
        car
        doll
        drum
        kite
        robot
        teddy
        train
        whistle
    """,
    "WEAR": """
        wear      was
        boots     were
        coat      was
        socks     were
        trousers  were
        jacket    was
        mittens   were
    """,
    "PET": """
        pet       sang      treat
        kitten    purred    a fish
        puppy     barked    a bone
        rabbit    hopped    a carrot
        duckling  quacked   some corn
        lamb      bleated   some hay
        piglet    squealed  a turnip
        parrot    whistled  a nut
        mouse     squeaked  some cheese
    """,
    "PETNAME": """
        name
        Biscuit
        Button
        Coco
        Muffin
        Noodle
        Pepper
        Pickle
        Waffle
    """,
    "ANIMAL": """
        animal    many       a
        cow       cows       a cow
        donkey    donkeys    a donkey
        elephant  elephants  an elephant
        goat      goats      a goat
        hedgehog  hedgehogs  a hedgehog
        horse     horses     a horse
        owl       owls       an owl
        penguin   penguins   a penguin
        wolf      wolves     a wolf
        zebra     zebras     a zebra
    """,
    "HERO": """
        hero
        bear
        dragon
        giant
        king
        knight
        pirate
        queen
        whale
        witch
    """,
    "TRAIT": """
        trait
        brave
        clever
        grumpy
        kind
        shy
        silly
        sleepy
        tiny
    """,
    "FOOD": """
        food     many      a
        apple    apples    an apple
        bun      buns      a bun
        cherry   cherries  a cherry
        cookie   cookies   a cookie
        pancake  pancakes  a pancake
        peach    peaches   a peach
        pear     pears     a pear
        plum     plums     a plum
        tart     tarts     a tart
    """,
    "PLANT": """
        plant    many
        bean     beans
        carrot   carrots
        daisy    daisies
        melon    melons
        poppy    poppies
        pumpkin  pumpkins
        radish   radishes
        tulip    tulips
    """,
    "THIEF": """
        thief   many     a
        crow    crows    a crow
        goose   geese    a goose
        mole    moles    a mole
        mouse   mice     a mouse
        rabbit  rabbits  a rabbit
        slug    slugs    a slug
        snail   snails   a snail
    """,
    "FLAVOUR": """
        flavour  a
        apple    an apple
        carrot   a carrot
        cherry   a cherry
        ginger   a ginger
        honey    a honey
        lemon    a lemon
        nut      a nut
        plum     a plum
    """,
    "BAKE": """
        bake
        cake
        loaf
        pie
        pudding
    """,
    "COUNT": """
        count  less   fewer
        three  two    one
        four   three  two
        five   four   three
        six    five   four
        seven  six    five
        eight  seven  six
        nine   eight  seven
    """,
}
