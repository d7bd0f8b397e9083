"""What is said: small scenarios, as data plus generators.

A scenario is a function ``(rng, pick) -> list[Exchange]``. ``pick(name, options)`` chooses an argument or a
phrase template and keeps the held-out ones out of training: the split is a hash of the option itself, so it
never depends on order, seed or corpus size. Add a scenario by writing a function and decorating it with
``@scenario(weight)``.

All numbers are spelled out: the text row, the phonemiser and the recogniser then agree on what a word is.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
NAMES = "anna ben carla david emma frank grace henry julia kevin laura martin nina oliver paula robert".split()
OPPOSITES = (
    "hot cold|big small|up down|left right|happy sad|day night|open closed|young old|fast slow|wet dry|high low|full empty"
)
COLOURS = "the sky=blue|grass=green|snow=white|a banana=yellow|blood=red|coal=black|an orange=orange|chocolate=brown"
THINGS = "apple house river garden window bottle mountain letter orange table".split()
LOOKS = "red green little golden heavy silver quiet yellow".split()
STORIES = {
    "fox": "once upon a time, a small fox found a silver key. she carried it through the forest, over the river and up "
    "the hill. at the top stood an old door. the key turned, the door opened, and behind it was the morning sun.",
    "boat": "long ago, a fisherman built a boat from an old piano. every wave that touched it made a soft note. the fish "
    "came to listen, and the fisherman never went home hungry again.",
}
BACKCHANNELS = ("mhm", "yeah", "uh huh", "right", "okay")
HELD_OUT = 8  # one option in this many never appears in training


@dataclass(frozen=True)
class Exchange:
    """One user turn and the system's answer.

    ``interruptible``: a long answer, in which the corpus may place a barge-in or a backchannel.
    """

    user: str
    system: str
    interruptible: bool = False


class Picker:
    """Chooses options of one split. ``split`` is "train" or "test"."""

    def __init__(self, rng: random.Random, split: str):
        if split not in ("train", "test"):
            raise ValueError(f"unknown split {split!r}: use train or test")
        self.rng, self.split = rng, split

    @staticmethod
    def held_out(kind: str, option: object) -> bool:
        """Whether this option of this kind belongs to the test split."""
        return hashlib.sha256(f"{kind}:{option}".encode()).digest()[0] % HELD_OUT == 0

    def __call__(self, kind: str, options: Sequence):
        """An option of the split; kinds with no held-out option share all of them."""
        train, test = _split(kind, tuple(options))
        return self.rng.choice((test or train) if self.split == "test" else (train or test))


@functools.lru_cache(maxsize=256)
def _split(kind: str, options: tuple) -> tuple[list, list]:
    """(train, test) options; remembered, since hashing a hundred sums for each exchange takes longer than the rest."""
    test = [o for o in options if Picker.held_out(kind, o)]
    return [o for o in options if o not in test], test


Scenario = Callable[[random.Random, Picker], list[Exchange]]


@dataclass
class _Registry:
    scenarios: dict[str, tuple[float, Scenario]] = field(default_factory=dict)


_REGISTRY = _Registry()


def scenario(weight: float) -> Callable[[Scenario], Scenario]:
    """Register a scenario with its share of the exchanges."""

    def register(function: Scenario) -> Scenario:
        _REGISTRY.scenarios[function.__name__] = (weight, function)
        return function

    return register


def names() -> list[str]:
    """The registered scenarios."""
    return list(_REGISTRY.scenarios)


@scenario(1.5)
def greeting(rng, pick):
    """Hello, and an offer to help."""
    return [Exchange(pick("greet", ("hello", "hi", "hi there", "good morning", "hello world", "hey", "hello there")),
                     "hello, how can i help you?")]


@scenario(3.0)
def addition(rng, pick):
    """Sums of one to ten."""
    a, b = pick("sum", [(a, b) for a in range(1, 11) for b in range(1, 11)])
    form = pick("sum-form", ("{a} plus {b}", "what is {a} plus {b}?", "how much is {a} plus {b}?", "{a} plus {b} equals",
                             "tell me, what is {a} plus {b}?"))
    a_, b_, c_ = NUMBERS[a], NUMBERS[b], NUMBERS[a + b]
    return [Exchange(form.format(a=a_, b=b_), f"{a_} plus {b_} is {c_}.")]


@scenario(2.0)
def counting(rng, pick):
    """Counting from a to b: long, so that it can be interrupted."""
    a = rng.randint(1, 6)
    b = min(20, a + rng.randint(5, 14))
    form = pick("count-form", ("count from {a} to {b}", "please count from {a} to {b}", "can you count from {a} to {b}?",
                               "count to {b}"))
    a = 1 if "{a}" not in form else a
    return [Exchange(form.format(a=NUMBERS[a], b=NUMBERS[b]), ", ".join(NUMBERS[a : b + 1]) + ".", True)]


@scenario(1.5)
def go_on_counting(rng, pick):
    """The user starts a row of numbers, the system goes on."""
    a = rng.randint(1, 8)
    n = rng.choice((3, 3, 4))
    user = ", ".join(NUMBERS[a : a + n])
    return [Exchange(user, ", ".join(NUMBERS[a + n : min(21, a + n + 7)]) + ".", True)]


@scenario(1.5)
def next_day(rng, pick):
    """The day after a day."""
    i = rng.randrange(7)
    form = pick("day-form", ("today is {d}", "what day comes after {d}?", "today is {d}, what is tomorrow?"))
    return [Exchange(form.format(d=DAYS[i]), f"tomorrow is {DAYS[(i + 1) % 7]}." if "today" in form
                     else f"after {DAYS[i]} comes {DAYS[(i + 1) % 7]}.")]


@scenario(1.0)
def opposites(rng, pick):
    """The opposite of an adjective."""
    pair = rng.choice(OPPOSITES.split("|")).split()
    a, b = pair if rng.random() < 0.5 else pair[::-1]
    form = pick("opp-form", ("what is the opposite of {a}?", "the opposite of {a}", "tell me the opposite of {a}"))
    return [Exchange(form.format(a=a), f"the opposite of {a} is {b}.")]


@scenario(1.0)
def colours(rng, pick):
    """The colour of a thing."""
    thing, colour = rng.choice(COLOURS.split("|")).split("=")
    return [Exchange(f"what color is {thing}?", f"{thing} is {colour}.")]


@scenario(1.0)
def repeat(rng, pick):
    """Repeat two words."""
    look, thing = pick("repeat", [(x, y) for x in LOOKS for y in THINGS])
    form = pick("repeat-form", ("say {x}", "repeat after me, {x}", "please say {x}"))
    return [Exchange(form.format(x=f"{look} {thing}"), f"{look} {thing}.")]


@scenario(1.0)
def story(rng, pick):
    """A short story, which may be interrupted."""
    form = pick("story-form", ("tell me a story", "please tell me a story", "can you tell me a story?", "i want a story"))
    return [Exchange(form, rng.choice(list(STORIES.values())), True)]


@scenario(1.0)
def who(rng, pick):
    """Who the system is."""
    return [Exchange(pick("who", ("who are you?", "what is your name?", "what can you do?", "what are you?")),
                     "i am duplex. i can count, add numbers and tell stories.", True)]


@scenario(1.0)
def name_recall(rng, pick):
    """A name is given, and asked for later."""
    name = rng.choice(NAMES)
    give = Exchange(pick("name-form", ("my name is {n}", "i am {n}", "hello, my name is {n}")).format(n=name),
                    f"nice to meet you, {name}.")
    ask = Exchange("what is my name?", f"your name is {name}.")
    middle = addition(rng, pick) if rng.random() < 0.5 else []
    return [give, *middle, ask]


@scenario(0.7)
def thanks(rng, pick):
    """Thanks."""
    return [Exchange(pick("thanks", ("thank you", "thanks", "thank you very much")), "you are welcome.")]


GOODBYE = (("goodbye", "bye", "bye bye", "see you later"), "goodbye, talk to you soon.")
STOP = (("stop", "stop please", "okay stop", "wait, stop", "please stop"), "okay.")


def goodbye(pick: Picker) -> Exchange:
    """The closing exchange of a dialogue."""
    return Exchange(pick("bye", GOODBYE[0]), GOODBYE[1])


def stop(pick: Picker) -> Exchange:
    """A plain barge-in."""
    return Exchange(pick("stop", STOP[0]), STOP[1])


def exchanges(rng: random.Random, split: str, count: int) -> list[Exchange]:
    """At least ``count`` exchanges from scenarios drawn by weight."""
    pick = Picker(rng, split)
    weights = [w for w, _ in _REGISTRY.scenarios.values()]
    functions = [f for _, f in _REGISTRY.scenarios.values()]
    found: list[Exchange] = []
    while len(found) < count:
        found += rng.choices(functions, weights)[0](rng, pick)
    return found
