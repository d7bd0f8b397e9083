"""What the benches put to a system: recordings of a user with exact marks, and what would be right.

Every item is a function of (seed, task, number): lines and arguments of the test split, spoken by held-out speakers, at a level
and with a background that training has, too. The recording is fixed beforehand, so that any system can be played it, also one
behind a wire. User turns that come later in an item therefore start where an ideal system would be in its talk.
"""

from __future__ import annotations

import functools
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from benchmarks.clips import Clips, gain
from duplex.audio import pad_to_frames
from duplex.metrics.turntaking import Segment
from duplex.metrics.words import plain
from duplex.text import Word
from duplex.units import seconds_to_samples
from train.corpus import scripts
from train.corpus.exchange import REGISTRY, Exchange, Picker, split_key
from train.corpus.speakers import Speaker
from train.corpus.voices import Utterance

GAP = 0.36
"""Seconds after which an ideal system answers, the mean of the corpus."""
LONGEST_LISTEN = 6.0
LETTER, SPACE, MARK = 0.0633, 0.034, 0.08  # seconds that the system's voice takes, fitted to its clips
RENDITIONS = 3
"""Ways in which a speaker says a line; few, so that clips are used more than once."""


@dataclass(frozen=True)
class Line:
    """One thing that an ideal system says: the name of its line, from ``start`` until it is over or ``stop``, in seconds."""

    start: float
    name: str
    stop: float | None = None


@dataclass(frozen=True)
class Item:
    """One recording of a user and what belongs to it."""

    name: str
    task: str
    scenario: str
    speaker: str
    seed: int
    user: np.ndarray
    """float32 [T * 1920]."""
    marks: Mapping[str, Segment]
    """(start, end) in seconds of what the scorers need: "turn", "pause", "event", ..."""
    asked: str
    """What the user says in the turn that counts."""
    expected: tuple[str, ...]
    """Right answers to it, as the system would write them; empty where none is called for."""
    least: int | None = None
    """Where the recording ends before the answer could: so many of its first words suffice."""
    context: str = ""
    ideal: tuple[Line, ...] = ()
    words: tuple[Word, ...] = ()
    """What the user's channel says, with times."""
    clean: np.ndarray | None = None
    """The same recording without the event, where that is speech beside the system's talk; float32 [T * 1920]."""

    @property
    def seconds(self) -> float:
        return len(self.user) / 24_000


@dataclass
class Scene:
    """An item while it is being laid out."""

    clips: Clips
    rng: random.Random
    speaker: Speaker
    clock: float = 0.0
    parts: list[tuple[float, np.ndarray]] = field(default_factory=list)
    ideal: list[Line] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    split: str = "test"
    """Of the scripts: whose wordings and arguments are drawn."""

    def __post_init__(self) -> None:
        self.clock = self.rng.uniform(0.6, 1.2)
        self.gain = gain(self.rng)

    def say(self, exchange: Exchange, at: float | None = None) -> Segment:
        """The user's turn of an exchange, with its sound; the clock moves to its end. (start, end) of the words."""
        at = self.clock if at is None else at
        if exchange.sound_key:
            at = self.put(exchange.sound_key, at)[1] + self.rng.uniform(0.3, 0.6)
        return self.put(exchange.user_key, at)

    def put(self, name: str, at: float, speaker: Speaker | None = None) -> Segment:
        """A clip of a user; the clock moves to its end."""
        said = self.clips.user(name, speaker or self.speaker, self.rng.randrange(RENDITIONS))
        mark = split_key(name)[1]
        self.parts.append((at, said.samples * (gain(self.rng, mark) if mark else self.gain)))
        self.words += timed_words(said, split_key(name)[0], at)
        self.clock = at + said.seconds
        return at, self.clock

    def answer(self, name: str, stop: float | None = None) -> Segment:
        """The ideal answer to what the user has just said; the clock moves to its end."""
        start = self.clock + GAP
        self.ideal.append(Line(start, name, stop))
        self.clock = min(start + length(name), stop or float("inf"))
        return start, self.clock

    def finish(self, seconds: float) -> np.ndarray:
        """The user's channel, float32 [T * 1920], with faint noise in every other item."""
        samples = seconds_to_samples(seconds)
        self._noise = np.zeros(samples, np.float32)
        if self.rng.random() < 0.5:
            level = 10 ** (self.rng.uniform(-75, -52) / 20)
            self._noise = np.random.default_rng(self.rng.randrange(2**32)).standard_normal(samples).astype(np.float32) * level
        return self._mixed(self.parts)

    def without_last(self) -> np.ndarray:
        """The channel that `finish` gave, but for what was put into it last."""
        return self._mixed(self.parts[:-1])

    def _mixed(self, parts: list[tuple[float, np.ndarray]]) -> np.ndarray:
        track = np.zeros(len(self._noise), np.float32)
        for at, samples in parts:
            first = seconds_to_samples(at)
            part = samples[: max(0, len(track) - first)]
            track[first : first + len(part)] += part
        return pad_to_frames(np.clip(track + self._noise, -1, 1))


def timed_words(said: Utterance, text: str, at: float) -> list[Word]:
    """The words of a clip that begins at ``at`` seconds; spread evenly where its engine does not tell their times."""
    if said.words:
        return [Word(w.text, at + w.start, at + w.end) for w in said.words]
    words = text.split()
    step = said.seconds / max(1, len(words))
    return [Word(word, at + n * step, at + (n + 1) * step) for n, word in enumerate(words)]


def length(name: str) -> float:
    """Seconds that the system's voice needs for a line, within a tenth or so: letters and marks take time."""
    text, mark = split_key(name)
    if mark in ("beep", "scale"):
        return 0.42 * len(text.split())
    letters, marks = sum(c.isalpha() for c in text), sum(c in ",.?!" for c in text)
    return 0.21 + LETTER * letters + SPACE * text.count(" ") + MARK * max(0, marks - 1)


def listening(name: str, longest: float = LONGEST_LISTEN) -> tuple[float, int | None]:
    """Seconds to listen for an answer after the user's turn, and `Item.least` for one that does not fit."""
    spoken = length(name) * 1.15
    if GAP + spoken + 1.2 <= longest:
        return GAP + spoken + 1.2, None
    share = (longest - GAP - 1.2) / spoken
    return longest, max(2, int(share * len(plain(name).split())) - 1)


def scene(clips: Clips, seed: int, task: str, number: int, timed: bool = False) -> Scene:
    """A fresh scene with its own random numbers; speakers take turns."""
    rng = random.Random(f"{seed}:{task}:{number}")
    speakers = clips.timed() if timed else clips.speakers
    return Scene(clips, rng, speakers[(number + seed) % len(speakers)])


def plainly(exchange: Exchange) -> bool:
    """Whether an exchange is plain speech in the language of the scripts, on both sides."""
    return not (exchange.user_mark or exchange.system_mark or exchange.sound or exchange.long_turn or exchange.wait)


def instance(rng: random.Random, name: str, split: str = "test") -> list[Exchange]:
    """The exchanges of a scenario, from one split of the scripts."""
    return scripts.instance(rng, Picker(rng, split), name)


@functools.cache
def openings(split: str = "test") -> dict[str, dict[str, tuple[Exchange, ...]]]:
    """{scenario: {user line: exchanges}} of all first exchanges of a split, by exhaustive sampling.

    Some lines have several right answers: every story is a story.
    """
    found: dict[str, dict[str, dict[str, Exchange]]] = defaultdict(lambda: defaultdict(dict))
    for name in scripts.names():
        rng = random.Random(name)
        for _ in range(400):
            first = instance(rng, name, split)[0]
            found[name][f"{first.sound_key} {first.user_key}"].setdefault(first.system_key, first)
    return {name: {line: tuple(answers.values()) for line, answers in by_line.items()} for name, by_line in found.items()}


def core() -> list[str]:
    """The scenarios that open with plain speech: whatever the user says in them can be answered without what came before."""
    return [name for name, by_line in openings().items() if all(plainly(e) for found in by_line.values() for e in found)]


def answers(name: str, exchange: Exchange, split: str = "test") -> tuple[str, ...]:
    """All right answers to an opening exchange."""
    return tuple(e.system for e in openings(split)[name].get(f"{exchange.sound_key} {exchange.user_key}", (exchange,)))


def draw(rng: random.Random, name: str, split: str = "test") -> tuple[Exchange, tuple[str, ...]]:
    """An opening exchange of a scenario and its right answers."""
    exchange = instance(rng, name, split)[0]
    return exchange, answers(name, exchange, split)


@functools.cache
def complete_lines() -> frozenset[str]:
    """Everything that a user may say as a whole turn, plain: a pause after such words is an end."""
    rng = random.Random(0)
    every = {plain(e.user) for split in ("train", "test") for e in scripts.exchanges(rng, split, 6_000)}
    return frozenset(every | {plain(line) for by_line in openings().values() for found in by_line.values() for line in
                              [found[0].user]})


def long_answers() -> list[str]:
    """Scenarios with answers long enough to be interrupted."""
    return [name for name in core() if any(e.interruptible for found in openings()[name].values() for e in found)
            and name in REGISTRY.scenarios]


def draw_long(rng: random.Random, seconds: float) -> tuple[str, Exchange]:
    """A scenario and an exchange of it whose answer takes at least so long."""
    names = long_answers()
    while True:
        name = rng.choice(names)
        exchange = draw(rng, name)[0]
        if exchange.interruptible and length(exchange.system_key) >= seconds:
            return name, exchange


def draw_short(rng: random.Random, seconds: float, but: tuple[str, ...] = ()) -> tuple[str, Exchange, tuple[str, ...]]:
    """A scenario (not one of ``but``), an exchange of it whose answer takes at most so long, and its right answers."""
    names = [name for name in core() if name not in but]
    while True:
        name = rng.choice(names)
        exchange, right = draw(rng, name)
        if all(length(line) <= seconds for line in right):
            return name, exchange, right
