"""Lay exchanges out in time on two channels: turn gaps, barge-ins, backchannels, pauses, long silences, noise.

Every placement is known here, so word times and event times are exact by construction. The system's behaviour is what
the model learns: it answers shortly after the user's turn ends, stops soon after a barge-in begins, goes on through a
backchannel and through a pause inside a turn, and keeps quiet while nobody addresses it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from duplex.text import Word
from duplex.units import SAMPLE_RATE, seconds_to_samples
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


@dataclass
class Track:
    """Samples and words of one speaker while a dialogue is being laid out."""

    parts: list[tuple[float, np.ndarray]] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)

    def add(self, start: float, samples: np.ndarray, words: tuple[Word, ...] = ()) -> None:
        self.parts.append((start, samples))
        self.words += [Word(w.text, round(w.start + start, 3), round(w.end + start, 3)) for w in words]

    def render(self, seconds: float) -> np.ndarray:
        out = np.zeros(seconds_to_samples(seconds), np.float32)
        for start, samples in self.parts:
            at = min(len(out), seconds_to_samples(start))
            stop = max(at, min(len(out), at + len(samples)))
            out[at:stop] += samples[: stop - at]
        return out


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
    proper = set(scripts.NAMES) | set(scripts.DAYS) | {"i", "duplex"}
    words, start = [], True
    for word in text.split():
        bare = word.rstrip(",.?!")
        words.append(word.capitalize() if start or bare in proper else word)
        start = word[-1] in ".?!"
    return " ".join(words)


class Composer:
    """Builds dialogues of one split from a bank of clips."""

    def __init__(self, bank: Bank, phenomena: Phenomena, split: str):
        self.bank, self.phenomena, self.split = bank, phenomena, split
        self.speakers = sorted({c.engine for c in bank.clips if c.role == "user"})

    def compose(self, seed: str, seconds: float) -> Dialogue:
        """One dialogue of exactly ``seconds``; equal seeds give equal samples."""
        return _Layout(self, random.Random(seed), seconds).run()


class _Layout:
    """The state of one dialogue while it is being laid out."""

    def __init__(self, composer: Composer, rng: random.Random, seconds: float):
        self.bank, self.p, self.split = composer.bank, composer.phenomena, composer.split
        self.rng, self.seconds = rng, seconds
        self.pick = Picker(rng, composer.split)
        self.engine = rng.choice(composer.speakers)
        self.user, self.system = Track(), Track()
        self.events: list[dict] = []
        self.texts: list[tuple[str, str]] = []
        self.gain = 10 ** (rng.uniform(-14, 4) / 20)

    def run(self) -> Dialogue:
        clock = self.rng.uniform(0.4, 2.0)
        queue = [self._opening()] if self.rng.random() < 0.35 else []
        queue = [e for e in queue if e]
        while clock < self.seconds:
            if not queue:
                queue = self._draw()
            clock = self._exchange(queue, clock)
            clock += self.rng.uniform(3, 8) if self.rng.random() < self.p.long_silence else self.rng.uniform(0.5, 2.2)
        user = self.user.render(self.seconds) * self.gain
        if self.rng.random() < self.p.quiet_noise:
            level = 10 ** (self.rng.uniform(-75, -42) / 20)
            user += np.random.default_rng(self.rng.randrange(2**32)).standard_normal(len(user)).astype(np.float32) * level
        inside = [w for w in self.system.words if w.start < self.seconds]
        return Dialogue(self.system.render(self.seconds), np.clip(user, -1, 1), inside,
                        [w for w in self.user.words if w.start < self.seconds],
                        sorted((e for e in self.events if e["start"] < self.seconds), key=lambda e: e["start"]), self.texts)

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
        return exchange if self._clips(exchange.user) else None

    def _clips(self, text: str) -> list[Clip]:
        return [c for c in self.bank.find("user", text) if c.engine == self.engine]

    def _say_user(self, text: str, at: float, kind: str, pause: bool = True) -> float:
        """Place a user clip; returns when it ends."""
        clip = self.rng.choice(self._clips(text))
        speech = self.bank.speech(clip)
        samples, words = speech.samples, speech.words
        if pause and len(words) >= 4 and self.rng.random() < self.p.pause:
            samples, words, hole = _with_pause(self.rng, samples, words)
            self.events.append({"kind": "user_pause", "start": round(at + hole[0], 3), "end": round(at + hole[1], 3)})
        self.user.add(at, samples, words)
        end = at + len(samples) / SAMPLE_RATE
        self.events.append({"kind": kind, "start": round(at, 3), "end": round(end, 3), "text": text, "speaker": clip.speaker})
        return end

    def _exchange(self, queue: list[Exchange], clock: float) -> float:
        """Lay out the first exchange of the queue and whatever interrupts its answer; returns when all is quiet."""
        exchange = queue.pop(0)
        clock = self._say_user(exchange.user, clock, "user_turn")
        while True:
            gap = min(0.9, max(0.2, self.rng.gauss(self.p.response_gap, self.p.response_spread)))
            start = clock + gap
            clip = self.rng.choice(self.bank.find("system", exchange.system))
            speech = self.bank.speech(clip)
            samples, words = speech.samples, speech.words
            if words and len(words) == len(exchange.system.split()):
                words = tuple(Word(t, w.start, w.end) for t, w in zip(written(exchange.system).split(), words, strict=True))
            length = len(samples) / SAMPLE_RATE
            self.texts.append((exchange.user, exchange.system))
            follow = self._interruption(exchange, queue, start, length)
            if follow is None:
                self._say_system(start, samples, words, length)
                return start + length
            at, kind, follow_exchange = follow
            cut = min(length, at - start + self.rng.uniform(*self.p.yield_after))
            self._say_system(start, samples, words, cut)
            clock = max(self._say_user(follow_exchange.user, at, kind, pause=False), start + cut)
            if cut < length:
                self.events.append({"kind": "yielded", "start": round(at, 3), "end": round(start + cut, 3)})
            exchange = follow_exchange

    def _say_system(self, start: float, samples: np.ndarray, words: tuple[Word, ...], cut: float) -> None:
        """Place the system's answer up to ``cut`` seconds, with a fade where it is broken off."""
        samples = samples[: seconds_to_samples(cut)].copy()
        fade = min(len(samples), 960)
        if cut * SAMPLE_RATE < len(samples) or fade:
            samples[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        kept = tuple(w for w in words if w.start < cut - 0.08)
        self.system.add(start, samples, kept)
        self.events.append({"kind": "system_turn", "start": round(start, 3), "end": round(start + cut, 3),
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
            options = [o for o in options if self._clips(o.user)]
            return (at, "barge_in_stop", self.rng.choice(options)) if options else None
        return at, "barge_in_request", (queue or self._draw())[0] if not queue else queue.pop(0)


def _with_pause(rng: random.Random, samples: np.ndarray, words: tuple[Word, ...]):
    """Open a silence between two words in the middle. Returns samples, words and (start, end) of the silence."""
    k = rng.randrange(1, len(words) - 1)
    at, hole = (words[k - 1].end + words[k].start) / 2, rng.uniform(0.5, 1.1)
    cut = seconds_to_samples(at)
    left, right = samples[:cut].copy(), samples[cut:].copy()
    edge = min(240, len(left), len(right))
    left[len(left) - edge:] *= np.linspace(1, 0, edge, dtype=np.float32)
    right[:edge] *= np.linspace(0, 1, edge, dtype=np.float32)
    joined = np.concatenate([left, np.zeros(seconds_to_samples(hole), np.float32), right])
    moved = words[:k] + tuple(Word(w.text, w.start + hole, w.end + hole) for w in words[k:])
    return joined, moved, (at, at + hole)
