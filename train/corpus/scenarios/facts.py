"""Opposites, colours, animals and other small facts."""

from __future__ import annotations

from train.corpus.exchange import Exchange, scenario

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
    form = pick("opp-form", ("what is the opposite of {a}?", "the opposite of {a}", "tell me the opposite of {a}"))
    return [Exchange(form.format(a=one), f"the opposite of {one} is {other}.")]


@scenario(1.0)
def colours(rng, pick):
    """The colour of a thing."""
    thing, colour = rng.choice(pairs(COLOURS))
    form = pick("colour-form", ("what color is {x}?", "which color does {x} have?", "tell me, what color is {x}?"))
    return [Exchange(form.format(x=thing), f"{thing} is {colour}.")]


@scenario(1.0)
def animals(rng, pick):
    """What an animal says, how many legs it has, where it lives."""
    kind = rng.choice(("voice", "legs", "home"))
    if kind == "voice":
        animal, voice = rng.choice(pairs(VOICES))
        form = pick("animal-form", ("what does {x} say?", "what sound does {x} make?"))
        return [Exchange(form.format(x=a(animal)), f"{a(animal)} says {voice}.")]
    if kind == "legs":
        animal, legs = rng.choice(pairs(LEGS))
        return [Exchange(f"how many legs does {a(animal)} have?", f"{a(animal)} has {legs} legs.")]
    animal, home = rng.choice(pairs(HOMES))
    place = home if home == "water" else ("the " if home in ("desert", "forest") else "a ") + home
    return [Exchange(f"where does {a(animal)} live?", f"{a(animal)} lives in {place}.")]


@scenario(0.8)
def facts(rng, pick):
    """A small fact."""
    question = rng.choice(list(FACTS))
    return [Exchange(question, FACTS[question])]
