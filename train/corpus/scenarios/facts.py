"""Opposites, colours, animals and other small facts."""

from __future__ import annotations

from train.corpus.exchange import Exchange, scenario, wordings

OPPOSITES = (
    "hot cold|big small|up down|left right|happy sad|day night|open closed|young old|fast slow|wet dry|high low|full empty"
)
COLOURS = "the sky=blue|grass=green|snow=white|a banana=yellow|blood=red|coal=black|an orange=orange|chocolate=brown"
VOICES = "dog=woof|cat=meow|cow=moo|sheep=baa|duck=quack|lion=roar|horse=neigh|bee=buzz"
LEGS = "dog=four|bird=two|spider=eight|fish=no|bee=six|horse=four"
HOMES = "fish=water|bird=nest|bee=hive|camel=desert|bear=forest|horse=stable"
FACTS = {
    "what is the capital of france?": "the capital of france is paris.",
    "what is the capital of spain?": "the capital of spain is madrid.",
    "what is the capital of italy?": "the capital of italy is rome.",
    "what is the capital of japan?": "the capital of japan is tokyo.",
    "how many days are in a week?": "a week has seven days.",
    "how many months are in a year?": "a year has twelve months.",
    "how many minutes are in an hour?": "an hour has sixty minutes.",
    "what do bees make?": "bees make honey.",
    "what is ice made of?": "ice is made of water.",
    "where does the sun rise?": "the sun rises in the east.",
    "what comes after summer?": "after summer comes autumn.",
    "what is frozen water called?": "frozen water is called ice.",
}
WORDINGS = {
    "opp-form": wordings(
        "what is the opposite of {a}?; the opposite of {a}; tell me the opposite of {a}; what is the contrary of {a}?; "
        "do you know the opposite of {a}?; {a}, what is the opposite?; can you tell me the opposite of {a}?; "
        "say the opposite of {a}; the opposite of {a}, please; what would be the opposite of {a}?"
    ),
    "colour-form": wordings(
        "what color is {x}?; which color does {x} have?; tell me, what color is {x}?; what is the color of {x}?; "
        "do you know the color of {x}?; can you tell me what color {x} is?; {x}, what color is it?; "
        "please tell me the color of {x}; the color of {x}, please; which color is {x}?"
    ),
    "animal-form": wordings(
        "what does {x} say?; what sound does {x} make?; how does {x} sound?; what noise does {x} make?; "
        "do you know what {x} says?; which sound does {x} make?; tell me what {x} says; can you tell me what {x} says?"
    ),
    "legs-form": wordings(
        "how many legs does {x} have?; tell me, how many legs does {x} have?; do you know how many legs {x} has?; "
        "{x}, how many legs does it have?; can you tell me how many legs {x} has?; how many legs has {x}?"
    ),
    "home-form": wordings(
        "where does {x} live?; tell me where {x} lives; do you know where {x} lives?; what is the home of {x}?; "
        "{x}, where does it live?; can you tell me where {x} lives?"
    ),
    "fact-form": wordings(
        "{q}; tell me, {q}; please tell me, {q}; can you tell me, {q}; i have a question, {q}; so, {q}; do you know, {q}"
    ),
}


def pairs(row: str) -> list[list[str]]:
    """The entries of one of the lists above."""
    return [entry.split("=") for entry in row.split("|")]


def a(noun: str) -> str:
    """A noun with its article."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


@scenario(1.0)
def opposites(rng, pick):
    """The opposite of an adjective."""
    pair = rng.choice(OPPOSITES.split("|")).split()
    one, other = pair if rng.random() < 0.5 else pair[::-1]
    form = pick("opp-form", WORDINGS["opp-form"])
    return [Exchange(form.format(a=one), f"the opposite of {one} is {other}.")]


@scenario(1.0)
def colours(rng, pick):
    """The colour of a thing."""
    thing, colour = rng.choice(pairs(COLOURS))
    form = pick("colour-form", WORDINGS["colour-form"])
    return [Exchange(form.format(x=thing), f"{thing} is {colour}.")]


@scenario(1.0)
def animals(rng, pick):
    """What an animal says, how many legs it has, where it lives."""
    kind = rng.choice(("voice", "legs", "home"))
    if kind == "voice":
        animal, voice = rng.choice(pairs(VOICES))
        form = pick("animal-form", WORDINGS["animal-form"])
        return [Exchange(form.format(x=a(animal)), f"{a(animal)} says {voice}.")]
    if kind == "legs":
        animal, legs = rng.choice(pairs(LEGS))
        form = pick("legs-form", WORDINGS["legs-form"])
        return [Exchange(form.format(x=a(animal)), f"{a(animal)} has {legs} legs.")]
    animal, home = rng.choice(pairs(HOMES))
    place = home if home == "water" else ("the " if home in ("desert", "forest") else "a ") + home
    form = pick("home-form", WORDINGS["home-form"])
    return [Exchange(form.format(x=a(animal)), f"{a(animal)} lives in {place}.")]


@scenario(0.8)
def facts(rng, pick):
    """A small fact."""
    question = rng.choice(list(FACTS))
    form = pick("fact-form", WORDINGS["fact-form"])
    return [Exchange(form.format(q=question), FACTS[question])]
