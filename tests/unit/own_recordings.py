"""Two-channel recordings of made-up voices with exact word times, and ten ways to spoil one."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from duplex.text import Word
from duplex.units import SAMPLE_RATE

SYLLABLES = ("ba", "do", "ki", "lu", "ma", "no", "pe", "ra", "si", "tu")


def voice(rng: np.random.Generator, seconds: float, pitch: float) -> np.ndarray:
    """One word: harmonics of a wandering pitch under one formant, with breath, loud in the middle."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    wander = np.cumsum(rng.standard_normal(len(time))) * 0.002
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 4) * time + wander))) / SAMPLE_RATE
    formant = rng.uniform(300, 1200)
    sound = sum(np.cos(k * phase) / (1 + ((k * pitch - formant) / 300) ** 2) for k in range(1, 14))
    sound = sound / np.abs(sound).max() + 0.05 * rng.standard_normal(len(time))
    edge = np.minimum(1, np.minimum(np.arange(len(time)), np.arange(len(time))[::-1]) / 480)
    return (0.25 * sound * edge).astype(np.float32)


@dataclass
class Conversation:
    """Two tracks [2, S] and the words of both; tests change it and `write` it."""

    pcm: np.ndarray
    system: list[Word]
    user: list[Word]
    events: list[dict] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.pcm.shape[1] / SAMPLE_RATE

    def write(self, folder: Path, name: str, ending: str = ".wav") -> Path:
        """The moshi-finetune layout: NAME.wav and NAME.json (and NAME.events.jsonl)."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (name + ending)
        soundfile.write(path, np.clip(self.pcm.T, -1, 1), SAMPLE_RATE, subtype="PCM_16")
        entries = [[w.text, [round(w.start, 3), round(w.end, 3)], label]
                   for label, words in (("SPEAKER_MAIN", self.system), ("SPEAKER_USER", self.user)) for w in words]
        path.with_suffix(".json").write_text(json.dumps({"alignments": entries}))
        if self.events:
            path.with_suffix(".events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in self.events))
        return path


def converse(seed: int, seconds: float = 50.0, noise_db: float = -70.0) -> Conversation:
    """A conversation of its own to change; equal arguments give equal ones."""
    return copy.deepcopy(_converse(seed, seconds, noise_db))


@functools.cache
def _converse(seed: int, seconds: float, noise_db: float) -> Conversation:
    """User and system take turns of some words, 0.3 to 0.9 s apart, with a short backchannel now and then."""
    rng = np.random.default_rng(seed)
    pcm = rng.standard_normal((2, round(seconds * SAMPLE_RATE))).astype(np.float32) * 10 ** (noise_db / 20)
    words: list[list[Word]] = [[], []]
    events = []

    def say(side: int, at: float, count: int) -> float:
        for _ in range(count):
            length = float(rng.uniform(0.18, 0.4))
            if at + length > seconds - 0.2:
                return seconds
            sound = voice(rng, length, (210.0, 120.0)[side])
            first = round(at * SAMPLE_RATE)
            pcm[side, first : first + len(sound)] += sound
            words[side].append(Word("".join(rng.choice(SYLLABLES, 2)), at, at + length))
            at += length + float(rng.uniform(0.02, 0.06))
        return at

    at, side = 0.7, 1
    while at < seconds - 1:
        start = at
        at = say(side, at, int(rng.integers(4, 9)))
        events.append({"kind": ("system_turn", "user_turn")[side], "start": round(start, 3), "end": round(min(at, seconds), 3)})
        if side == 0 and at < seconds and rng.random() < 0.3:
            middle = (start + at) / 2
            end = say(1, middle, 1)
            events.append({"kind": "user_backchannel", "start": round(middle, 3), "end": round(end, 3)})
        at += float(rng.uniform(0.3, 0.9))
        side = 1 - side
    for track in words:
        track.sort(key=lambda word: word.start)
    return Conversation(pcm, words[0], words[1], sorted(events, key=lambda e: e["start"]))


def _swap(c: Conversation) -> None:
    c.pcm = c.pcm[::-1].copy()


def _leak(c: Conversation) -> None:
    late = round(0.14 * SAMPLE_RATE)  # as loudspeakers leak: delayed, 20 dB down
    c.pcm[1, late:] += 0.1 * c.pcm[0, :-late]


def _clip(c: Conversation) -> None:
    c.pcm[1] = np.clip(c.pcm[1] * 6, -0.7, 0.7)


def _silence(c: Conversation) -> None:
    c.pcm[0] = c.pcm[0] * 1e-4


def _offset(c: Conversation) -> None:
    c.pcm[0] += 0.05


def _misplace(c: Conversation) -> None:
    """A third of the system's utterances is cut out of the sound, the words stay."""
    for number, word in enumerate(c.system):
        if number % 12 < 4:
            c.pcm[0, round((word.start - 0.02) * SAMPLE_RATE) : round((word.end + 0.05) * SAMPLE_RATE)] *= 1e-3


def _shift(c: Conversation) -> None:
    c.system, c.user = ([Word(w.text, w.start + 0.4, w.end + 0.4) for w in words] for words in (c.system, c.user))


def _drift(c: Conversation) -> None:
    c.system, c.user = ([Word(w.text, w.start * 0.985, w.end * 0.985) for w in words] for words in (c.system, c.user))


def _overlap(c: Conversation) -> None:
    """The user's track comes two seconds early: both talk at once most of the time."""
    early = round(2.0 * SAMPLE_RATE)
    c.pcm[1] = np.roll(c.pcm[1], -early)
    c.user = [Word(w.text, w.start - 2.0, w.end - 2.0) for w in c.user if w.start >= 2.0]


def _unlabel(c: Conversation) -> None:
    c.system = c.system[: len(c.system) // 3]


def _noise(c: Conversation) -> None:
    c.pcm[0] += np.random.default_rng(1).standard_normal(c.pcm.shape[1]).astype(np.float32) * 0.03


def _quieten(c: Conversation) -> None:
    c.pcm[1] *= 0.04


SPOILT: dict[str, tuple[str, Callable[[Conversation], None]]] = {
    "swapped": ("swapped channels", _swap), "leaking": ("leaking channels", _leak), "clipped": ("clipping", _clip),
    "silent": ("silent channel", _silence), "offset": ("offset from zero", _offset),
    "misplaced": ("words outside speech", _misplace), "shifted": ("shifted timings", _shift),
    "drifted": ("drifted timings", _drift), "overlapping": ("overlap", _overlap),
    "unlabelled": ("speech without words", _unlabel), "noisy": ("noisy system", _noise), "quiet": ("low level", _quieten),
}
"""Name of the planted recording: the kind that the validator must find, and how to plant it."""
