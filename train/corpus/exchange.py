"""What a scenario is made of: exchanges, the picker that keeps the splits apart, and the registry of scenarios.

A scenario is a function ``(rng, pick) -> list[Exchange]``. ``pick(name, options)`` chooses an argument or a
phrase template and keeps the held-out ones out of training: the split is a hash of the option itself, so it
never depends on order, seed or corpus size. Add a scenario by writing a function in one of the files of
``train/corpus/scenarios`` and decorating it with ``@scenario(weight)``.

All numbers are spelled out: the text row, the phonemiser and the recogniser then agree on what a word is.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

HELD_OUT = 8  # one option in this many never appears in training
STYLES = ("fast", "slow", "high", "low", "loud", "quiet")
SOUNDS = ("bell", "tone", "noise", "bird")
LANGUAGES = ("fr", "es")
MUMBLED, FAR = "mumbled", "far"


@dataclass(frozen=True)
class Exchange:
    """One user turn and the system's answer. Texts are lower case; a *mark* says how a text is to be spoken."""

    user: str
    system: str
    interruptible: bool = False
    """A long answer, in which the corpus may place a barge-in or a backchannel."""
    user_mark: str = ""
    """A style (`STYLES`), a language (`LANGUAGES`), or `MUMBLED`: speech that nobody can understand."""
    system_mark: str = ""
    """A language, or "beep" or "scale": the words are played, not spoken."""
    sound: str = ""
    """One of `SOUNDS`, heard in the user's channel just before the words."""
    wait: float = 0.0
    """At least so many seconds of other talk come between the exchange before this one and this one."""
    correction: Exchange | None = None
    """How the user may break in to correct what was asked, and the answer to that."""
    long_turn: bool = False
    """A user turn so long that the system may give backchannels in it."""

    @property
    def user_key(self) -> str:
        """The name of the user's clip in a bank."""
        return key(self.user, self.user_mark)

    @property
    def system_key(self) -> str:
        """The name of the system's clip in a bank."""
        return key(self.system, self.system_mark)

    @property
    def sound_key(self) -> str:
        """The name of the sound's clip in a bank, or ""."""
        return key("", self.sound) if self.sound else ""


def key(text: str, mark: str = "") -> str:
    """A clip's name: its text, and behind a bar how it is spoken."""
    return f"{text}|{mark}" if mark else text


def wordings(text: str) -> tuple[str, ...]:
    """The phrase templates of a list parted by semicolons."""
    return tuple(text.split("; "))


def split_key(name: str) -> tuple[str, str]:
    """(text, mark) of a clip's name."""
    text, _, mark = name.partition("|")
    return text, mark


FOR_TRAINING: dict[str, tuple[str, ...]] = {}
"""Kind -> further options that belong to the training split, whatever their hash."""


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
        return self.rng.choice((test or train) if self.split == "test" else ([*train, *FOR_TRAINING.get(kind, ())] or test))


@functools.lru_cache(maxsize=512)
def _split(kind: str, options: tuple) -> tuple[list, list]:
    """(train, test) options; remembered, since hashing a hundred sums for each exchange takes longer than the rest."""
    test = [o for o in options if Picker.held_out(kind, o)]
    return [o for o in options if o not in test], test


Scenario = Callable[[random.Random, Picker], list[Exchange]]


@dataclass
class _Registry:
    scenarios: dict[str, tuple[float, Scenario]] = field(default_factory=dict)


REGISTRY = _Registry()


def scenario(weight: float) -> Callable[[Scenario], Scenario]:
    """Register a scenario with its share of the exchanges."""

    def register(function: Scenario) -> Scenario:
        REGISTRY.scenarios[function.__name__] = (weight, function)
        return function

    return register


def names() -> list[str]:
    """The scenarios that are drawn unasked. Those registered with a share of 0 are for recipes that give them one."""
    return [name for name, (share, _) in REGISTRY.scenarios.items() if share > 0]
