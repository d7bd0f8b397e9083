"""Everything that is said: exchanges of all scenarios, and the lines that a bank must hold."""

from __future__ import annotations

import random

from train.corpus.exchange import REGISTRY, Exchange, Picker, Scenario, key, names, scenario, split_key
from train.corpus.scenarios.cafe import DRINKS, FOOD, cafe
from train.corpus.scenarios.facts import animals, colours, facts, opposites
from train.corpus.scenarios.languages import foreign, translate
from train.corpus.scenarios.memory import NAMES, name_recall, name_recall_late
from train.corpus.scenarios.numbers import DAYS, MONTHS, NUMBERS, addition, counting, go_on_counting, next_day, subtraction
from train.corpus.scenarios.sounds import make_sound, name_sound
from train.corpus.scenarios.speech import SYSTEM_BACKCHANNELS, clarification, manner, repeat, report, spelling
from train.corpus.scenarios.stories import PLANS, STORIES, day_plan, story
from train.corpus.scenarios.talk import (
    BACKCHANNELS,
    FILLERS,
    GOODBYE,
    STOP,
    goodbye,
    greeting,
    how_are_you,
    stop,
    thanks,
    who,
)

__all__ = [
    "ASIDES", "BACKCHANNELS", "DAYS", "DRINKS", "FILLERS", "FOOD", "GOODBYE", "MONTHS", "NAMES", "NUMBERS", "PLANS", "PROPER",
    "STOP", "STORIES", "SYSTEM_BACKCHANNELS", "Exchange", "Picker", "Scenario", "addition", "animals", "cafe", "clarification",
    "colours", "counting", "day_plan", "exchanges", "facts", "foreign", "go_on_counting", "goodbye", "greeting",
    "how_are_you", "instance", "key", "make_sound", "manner", "name_recall", "name_recall_late", "name_sound", "names",
    "next_day", "opposites", "repeat", "report", "scenario", "spelling", "split_key", "stop", "story", "subtraction",
    "thanks", "translate", "who",
]

# Said to somebody else in the room, or by somebody else further away: the system keeps quiet.
ASIDES = (
    "tom, can you close the window?", "did you see the game last night?", "the train was late again", "dinner is ready, mom",
    "tom, where are my keys?", "i think it is going to rain, lisa", "have you fed the dog, lisa?", "the children are at school",
)
PROPER = {*NAMES, *DAYS, *MONTHS, *PLANS, "i", "duplex", "france", "spain", "italy", "japan", "tokyo", "tom", "lisa"}
"""Words with a capital in written text."""


def instance(rng: random.Random, pick: Picker, name: str) -> list[Exchange]:
    """The exchanges of one scenario."""
    return REGISTRY.scenarios[name][1](rng, pick)


def exchanges(rng: random.Random, split: str, count: int) -> list[Exchange]:
    """At least ``count`` exchanges from scenarios drawn by weight."""
    pick = Picker(rng, split)
    weights = [w for w, _ in REGISTRY.scenarios.values()]
    functions = [f for _, f in REGISTRY.scenarios.values()]
    found: list[Exchange] = []
    while len(found) < count:
        found += rng.choices(functions, weights)[0](rng, pick)
    return found
