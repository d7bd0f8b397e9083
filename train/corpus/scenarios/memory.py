"""Things said once and asked for later: names, after one exchange or after half a minute of other talk."""

from __future__ import annotations

from train.corpus.exchange import Exchange, scenario, wordings
from train.corpus.scenarios.numbers import addition

NAMES = "anna ben carla david emma frank grace henry julia kevin laura martin nina oliver paula robert".split()
LATER = 30.0  # seconds between a name and the question for it
WORDINGS = {
    "name-form": wordings(
        "my name is {n}; i am {n}; hello, my name is {n}; hi, my name is {n}; hello, i am {n}; i am called {n}; "
        "they call me {n}; you can call me {n}; this is {n}; {n} is my name; hi, i am {n}"
    ),
    "name-ask": wordings(
        "what is my name?; do you remember my name?; who am i?; do you know my name?; tell me my name; "
        "can you tell me my name?; what am i called?; have you forgotten my name?; say my name, please; "
        "do you still know my name?; could you tell me my name?; what did i say my name was?; please tell me my name; "
        "what name did i give you?; do you remember who i am?; remember my name?; my name, please; and what is my name?; "
        "do you recall my name?; what was my name again?; can you remember my name?; which name did i tell you?; so, who am i?; "
        "what do people call me?; can you say my name?; tell me who i am; what was my name?; i forgot, what is my name?; "
        "do you know who i am?"
    ),
}


def given(rng, pick) -> tuple[Exchange, Exchange]:
    """A name is told; and the question for it."""
    name = rng.choice(NAMES)
    give = Exchange(pick("name-form", WORDINGS["name-form"]).format(n=name),
                    f"nice to meet you, {name}.")
    return give, Exchange(pick("name-ask", WORDINGS["name-ask"]),
                          f"your name is {name}.")


@scenario(1.0)
def name_recall(rng, pick):
    """A name is given, and asked for soon."""
    give, ask = given(rng, pick)
    middle = addition(rng, pick) if rng.random() < 0.5 else []
    return [give, *middle, ask]


@scenario(0.6)
def name_recall_late(rng, pick):
    """A name is given, and asked for after at least half a minute of other talk."""
    give, ask = given(rng, pick)
    return [give, Exchange(ask.user, ask.system, wait=LATER)]
