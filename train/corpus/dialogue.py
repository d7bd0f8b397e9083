"""Lay exchanges out in time on two channels: turn gaps, barge-ins, backchannels, pauses, long silences, noise.

Every placement is known here, so word times and event times are exact by construction. The system's behaviour is what
the model learns: it answers shortly after the user's turn ends, stops soon after a barge-in begins, goes on through a
backchannel and through a pause inside a turn, and keeps quiet while nobody addresses it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from duplex.text import Word
from duplex.units import frames_to_seconds, seconds_to_frame, seconds_to_samples
from train.corpus import scripts
from train.corpus.bank import Bank, Clip
from train.corpus.scripts import Exchange, Picker


@dataclass(frozen=True)
class Phenomena:
    """Rates and times of everything that happens between the turns (the [phenomena] table of a recipe)."""

    response_gap: float = 0.36
    """Mean seconds from the end of a user turn to the answer; sigma is `response_spread`."""
    response_spread: float = 0.10
    barge_in: float = 0.40
    """Share of interruptible answers that the user breaks into."""
    stop_share: float = 0.4
    """Share of barge-ins that say stop or thanks; the others bring a new request."""
    backchannel: float = 0.25
    """Share of interruptible answers with a backchannel, in which the system goes on."""
    yield_after: tuple[float, float] = (0.32, 0.56)
    """The system falls silent this long after a barge-in begins (uniform, seconds)."""
    pause: float = 0.12
    """Share of user turns with a silence of 0.5 to 1.1 s inside."""
    long_silence: float = 0.12
    """Share of gaps between exchanges that last 3 to 8 s."""
    quiet_noise: float = 0.5
    """Share of dialogues with background noise in the user's channel."""


@dataclass(frozen=True)
class Placement:
    """One clip on one speaker's track."""

    speaker: str
    """"system" or "user"."""
    start: float
    """Seconds from the beginning of the dialogue."""
    clip: Clip
    stop: float | None = None
    """The clip is broken off after so many seconds."""
    hole: tuple[float, float] | None = None
    """A silence is opened so many seconds into the clip, and lasts so long."""


@dataclass
class Plan:
    """A dialogue before it is rendered, as sound (`render`) or as codes (`train.coded`)."""

    placements: list[Placement] = field(default_factory=list)
    system_words: list[Word] = field(default_factory=list)
    user_words: list[Word] = field(default_factory=list)
    events: list[dict] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    gain: float = 1.0
    """Factor on the user's channel."""
    noise: float = 0.0
    """Standard deviation of white noise in the user's channel."""
    noise_seed: int = 0


class Library(Protocol):
    """Where clips come from: a bank of sound or of codes."""

    clips: list[Clip]

    def find(self, role: str, text: str) -> list[Clip]:
        """Clips of a text."""
        ...

    def timing(self, clip: Clip) -> tuple[float, tuple[Word, ...]]:
        """Length in seconds and word times, silence around the clip not counted."""
        ...


@dataclass
class Dialogue:
    """Two channels with exact labels. ``events``: dicts with kind, start, end (seconds) and what the kind needs."""

    system: np.ndarray
    user: np.ndarray
    system_words: list[Word]
    user_words: list[Word]
    events: list[dict]
    texts: list[tuple[str, str]]


def written(text: str) -> str:
    """Spoken lower case -> written case: sentence starts, names, days and "I"."""
    words, start = [], True
    for word in text.split():
        bare = word.rstrip(",.?!")
        words.append(word.capitalize() if start or bare in scripts.PROPER else word)
        start = word[-1] in ".?!"
    return " ".join(words)


class Composer:
    """Builds dialogues of one split from a library of clips."""

    def __init__(self, library: Library, phenomena: Phenomena, split: str):
        self.library, self.phenomena, self.split = library, phenomena, split
        self.speakers = sorted({c.engine for c in library.clips if c.role == "user" and c.engine != "sounds"})

    def plan(self, seed: str, seconds: float) -> Plan:
        """One dialogue of exactly ``seconds``; equal seeds give equal plans."""
        return _Layout(self, random.Random(seed), seconds).run()

    def compose(self, seed: str, seconds: float) -> Dialogue:
        """The plan of a seed, rendered as sound; equal seeds give equal samples. The library must be a `Bank`."""
        return render(self.library, self.plan(seed, seconds), seconds)


def render(bank: Bank, plan: Plan, seconds: float) -> Dialogue:
    """Mix a plan into two channels of ``seconds``."""
    tracks = {name: np.zeros(seconds_to_samples(seconds), np.float32) for name in ("system", "user")}
    for placement in plan.placements:
        samples = bank.speech(placement.clip).samples
        if placement.stop is not None:
            samples = _faded(samples, placement.stop)
        if placement.hole is not None:
            samples = _with_silence(samples, *placement.hole)
        track, at = tracks[placement.speaker], seconds_to_samples(placement.start)
        if at < len(track):
            part = samples[: len(track) - at]
            track[at : at + len(part)] += part
    user = tracks["user"] * plan.gain
    if plan.noise:
        user += np.random.default_rng(plan.noise_seed).standard_normal(len(user)).astype(np.float32) * plan.noise
    return Dialogue(tracks["system"], np.clip(user, -1, 1), plan.system_words, plan.user_words, plan.events, plan.texts)


def _faded(samples: np.ndarray, stop: float) -> np.ndarray:
    """The first ``stop`` seconds, with a fade of 40 ms at the end."""
    samples = samples[: seconds_to_samples(stop)].copy()
    fade = min(len(samples), 960)
    samples[len(samples) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return samples


def _with_silence(samples: np.ndarray, at: float, length: float) -> np.ndarray:
    """A silence of ``length`` seconds opened at ``at`` seconds, with edges of 10 ms."""
    cut = seconds_to_samples(at)
    left, right = samples[:cut].copy(), samples[cut:].copy()
    edge = min(240, len(left), len(right))
    left[len(left) - edge :] *= np.linspace(1, 0, edge, dtype=np.float32)
    right[:edge] *= np.linspace(0, 1, edge, dtype=np.float32)
    return np.concatenate([left, np.zeros(seconds_to_samples(length), np.float32), right])


class _Layout:
    """The state of one dialogue while it is being laid out."""

    def __init__(self, composer: Composer, rng: random.Random, seconds: float):
        self.library, self.p, self.split = composer.library, composer.phenomena, composer.split
        self.rng, self.seconds = rng, seconds
        self.pick = Picker(rng, composer.split)
        self.engine = rng.choice(composer.speakers)
        self.out = Plan(gain=10 ** (rng.uniform(-14, 4) / 20))

    def run(self) -> Plan:
        clock = self.rng.uniform(0.4, 2.0)
        queue = [self._opening()] if self.rng.random() < 0.35 else []
        queue = [e for e in queue if e]
        while clock < self.seconds:
            if not queue:
                queue = self._draw()
            clock = self._exchange(queue, clock)
            clock += self.rng.uniform(3, 8) if self.rng.random() < self.p.long_silence else self.rng.uniform(0.5, 2.2)
        out = self.out
        if self.rng.random() < self.p.quiet_noise:
            out.noise = 10 ** (self.rng.uniform(-75, -42) / 20)
            out.noise_seed = self.rng.randrange(2**32)
        out.placements = [p for p in out.placements if p.start < self.seconds]
        out.system_words = [w for w in out.system_words if w.start < self.seconds]
        out.user_words = [w for w in out.user_words if w.start < self.seconds]
        out.events = sorted((e for e in out.events if e["start"] < self.seconds), key=lambda e: e["start"])
        return out

    def _opening(self) -> Exchange | None:
        return self._speakable(scripts.greeting(self.rng, self.pick)[0])

    def _draw(self) -> list[Exchange]:
        """The next exchanges that the chosen speaker can say."""
        while True:
            found = [self._speakable(e) for e in scripts.exchanges(self.rng, self.split, 1)]
            if self.rng.random() < 0.05:
                found = [self._speakable(scripts.goodbye(self.pick))]
            if all(found):
                return found

    def _speakable(self, exchange: Exchange) -> Exchange | None:
        return exchange if self._clips(exchange.user_key) and self._has_system(exchange) else None

    def _has_system(self, exchange: Exchange) -> bool:
        return bool(self.library.find("system", exchange.system_key))

    def _clips(self, text: str) -> list[Clip]:
        return [c for c in self.library.find("user", text) if c.engine == self.engine]

    def _say_user(self, text: str, at: float, kind: str, pause: bool = True) -> float:
        """Place a user clip; returns when it ends."""
        clip = self.rng.choice(self._clips(text))
        length, words = self.library.timing(clip)
        hole = None
        if pause and len(words) >= 4 and self.rng.random() < self.p.pause:
            k = self.rng.randrange(1, len(words) - 1)
            hole = (words[k - 1].end + words[k].start) / 2, self.rng.uniform(0.5, 1.1)
            words = words[:k] + tuple(Word(w.text, w.start + hole[1], w.end + hole[1]) for w in words[k:])
            length += hole[1]
            start = round(at + hole[0], 3)
            self.out.events.append({"kind": "user_pause", "start": start, "end": round(start + hole[1], 3)})
        self.out.placements.append(Placement("user", at, clip, hole=hole))
        self.out.user_words += [_moved(w, at) for w in words]
        self.out.events.append({"kind": kind, "start": round(at, 3), "end": round(at + length, 3), "text": text,
                                "speaker": clip.speaker})
        return at + length

    def _exchange(self, queue: list[Exchange], clock: float) -> float:
        """Lay out the first exchange of the queue and whatever interrupts its answer; returns when all is quiet."""
        exchange = queue.pop(0)
        clock = self._say_user(exchange.user_key, clock, "user_turn")
        while True:
            gap = min(0.9, max(0.2, self.rng.gauss(self.p.response_gap, self.p.response_spread)))
            start = frames_to_seconds(seconds_to_frame(clock + gap))  # the system speaks on its own frames
            clip = self.rng.choice(self.library.find("system", exchange.system_key))
            length, words = self.library.timing(clip)
            if words and len(words) == len(exchange.system.split()):
                words = tuple(Word(t, w.start, w.end) for t, w in zip(written(exchange.system).split(), words, strict=True))
            self.out.texts.append((exchange.user, exchange.system))
            follow = self._interruption(exchange, queue, start, length)
            if follow is None:
                self._say_system(start, clip, words, length)
                return start + length
            at, kind, follow_exchange = follow
            cut = min(length, at - start + self.rng.uniform(*self.p.yield_after))
            self._say_system(start, clip, words, cut, cut < length)
            clock = max(self._say_user(follow_exchange.user_key, at, kind, pause=False), start + cut)
            if cut < length:
                self.out.events.append({"kind": "yielded", "start": round(at, 3), "end": round(start + cut, 3)})
            exchange = follow_exchange

    def _say_system(self, start: float, clip: Clip, words: tuple[Word, ...], cut: float, broken: bool = False) -> None:
        """Place the system's answer, up to ``cut`` seconds where it is broken off."""
        kept = tuple(w for w in words if w.start < cut - 0.08) if broken else words
        self.out.placements.append(Placement("system", start, clip, stop=cut if broken else None))
        self.out.system_words += [_moved(w, start) for w in kept]
        self.out.events.append({"kind": "system_turn", "start": round(start, 3), "end": round(start + cut, 3),
                                "text": " ".join(w.text for w in kept)})

    def _interruption(self, exchange: Exchange, queue: list[Exchange], start: float, length: float):
        """Maybe place a backchannel; maybe return a barge-in (time, kind, exchange that it opens)."""
        if not exchange.interruptible or length < 2.0:
            return None
        draw = self.rng.random()
        if draw < self.p.backchannel:
            text = self.rng.choice(scripts.BACKCHANNELS)
            if self._clips(text):
                self._say_user(text, start + self.rng.uniform(0.2, 0.8) * length, "user_backchannel", pause=False)
            return None
        if draw > self.p.backchannel + self.p.barge_in:
            return None
        at = start + self.rng.uniform(0.2, 0.8) * length
        if self.rng.random() < self.p.stop_share:
            options = [scripts.stop(self.pick), scripts.thanks(self.rng, self.pick)[0], scripts.goodbye(self.pick)]
            options = [o for o in options if self._clips(o.user_key)]
            return (at, "barge_in_stop", self.rng.choice(options)) if options else None
        return at, "barge_in_request", (queue or self._draw())[0] if not queue else queue.pop(0)


def _moved(word: Word, by: float) -> Word:
    return Word(word.text, round(word.start + by, 3), round(word.end + by, 3))
