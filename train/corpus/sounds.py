"""Procedural sounds: what the user's side may play, and what the system plays on request.

Sounds of the user are clips without words (``|bell``, ``|tone``, ``|noise``, ``|bird``). The system's beeps and its scale
have words, one a note, so that the text row says what is played and when.
"""

from __future__ import annotations

import numpy as np

from duplex.text import Word
from duplex.units import SAMPLE_RATE
from train.corpus.bank import Request
from train.corpus.exchange import SOUNDS, key, split_key
from train.corpus.voices import Utterance

NOTE, REST = 0.30, 0.12  # seconds of a beep or note, and of the silence behind it
SCALE_HZ = tuple(261.63 * 2 ** (n / 12) for n in (0, 2, 4, 5, 7, 9, 11, 12))
BEEP_HZ = 880.0
VARIANTS = 16


def _times(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _edges(samples: np.ndarray, seconds: float = 0.012) -> np.ndarray:
    """Fades in and out, so that nothing clicks."""
    n = round(seconds * SAMPLE_RATE)
    ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(n) / n)
    samples[:n] *= ramp
    samples[len(samples) - n :] *= ramp[::-1]
    return samples


def bell(rng: np.random.Generator) -> np.ndarray:
    """Inharmonic partials of a struck bell, each dying away at its own speed."""
    t, root = _times(rng.uniform(1.0, 1.6)), rng.uniform(420, 900)
    ratios = ((0.5, 0.5, 2.2), (1.0, 1.0, 3.0), (1.19, 0.5, 3.6), (1.5, 0.4, 4.4), (2.0, 0.6, 4.0),
              (2.74, 0.35, 6.0), (3.76, 0.2, 8.0))
    return _edges(sum(a * np.exp(-d * t) * np.sin(2 * np.pi * root * r * t) for r, a, d in ratios), 0.004)


def tone(rng: np.random.Generator) -> np.ndarray:
    """A steady sine."""
    t = _times(rng.uniform(0.6, 1.2))
    return _edges(np.sin(2 * np.pi * rng.uniform(350, 1200) * t))


def noise(rng: np.random.Generator) -> np.ndarray:
    """White noise."""
    return _edges(np.clip(rng.standard_normal(len(_times(rng.uniform(0.6, 1.2)))) / 3, -1, 1))


def bird(rng: np.random.Generator) -> np.ndarray:
    """A row of quick rising and falling whistles."""
    parts = []
    for _ in range(int(rng.integers(3, 7))):
        t = _times(rng.uniform(0.07, 0.15))
        low, swing = rng.uniform(2200, 3600), rng.uniform(500, 1500)
        hertz = low + swing * np.sin(np.pi * t / t[-1]) * rng.choice((-0.5, 1.0))
        parts.append(_edges(np.sin(2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE)))
        parts.append(np.zeros(round(rng.uniform(0.04, 0.1) * SAMPLE_RATE)))
    return np.concatenate(parts)


MAKERS = {"bell": bell, "tone": tone, "noise": noise, "bird": bird}


def notes(text: str, hertz: tuple[float, ...]) -> Utterance:
    """One note a word, with the word's times."""
    parts, words, clock = [], [], 0.0
    for n, word in enumerate(text.split()):
        t = _times(NOTE)
        pitch = hertz[n % len(hertz)]
        parts.append(_edges(np.sin(2 * np.pi * pitch * t) + 0.25 * np.sin(4 * np.pi * pitch * t)))
        parts.append(np.zeros(round(REST * SAMPLE_RATE)))
        words.append(Word(word, clock, clock + NOTE))
        clock += NOTE + REST
    return Utterance(np.concatenate(parts[:-1]).astype(np.float32), tuple(words))


class SoundEngine:
    """Plays clips by name; needs nothing installed."""

    name = "sounds"

    def voices(self) -> list[str]:
        return [f"v{n}" for n in range(VARIANTS)]

    def say(self, text: str, voice: str, speed: float = 1.0, seed: int = 0) -> Utterance:
        """``text`` is a clip's name with its mark; the voice is the variant."""
        words, mark = split_key(text)
        if mark in MAKERS:
            return Utterance(MAKERS[mark](np.random.default_rng((SOUNDS.index(mark), int(voice[1:])))).astype(np.float32))
        return notes(words, SCALE_HZ if mark == "scale" else (BEEP_HZ,))

    def requests(self, systems: list[str]) -> list[Request]:
        """Every variant of the user's sounds, and the given system lines."""
        own = [Request(name, "v0", "system") for name in systems if split_key(name)[1] in ("beep", "scale")]
        return own + [Request(key("", sound), voice, "user") for sound in SOUNDS for voice in self.voices()]
