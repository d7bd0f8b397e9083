"""A bank that costs nothing: an engine that speaks tones, and every line of the scripts by a few speakers."""

from __future__ import annotations

import functools

import numpy as np

from duplex.text import Word
from duplex.units import SAMPLE_RATE
from train.corpus.bank import Request
from train.corpus.lines import script_lines
from train.corpus.speakers import HELD_OUT
from train.corpus.utterance import Utterance

HELD_OUT_VOICE = next(n for n in sorted(HELD_OUT) if n.startswith("hibari:")).partition(":")[2]
WORD, STEP, LEAD = 0.2, 0.25, 0.1


@functools.lru_cache(maxsize=1024)
def _tone(word: str) -> np.ndarray:
    pitch = 200 + sum(map(ord, word)) % 500
    return (0.3 * np.sin(np.arange(round(WORD * SAMPLE_RATE)) * 2 * np.pi * pitch / SAMPLE_RATE)).astype(np.float32)


class ToneEngine:
    """Every word is 0.2 s of a tone of its own, 0.05 s apart, after 0.1 s of silence; no words are one tone without times."""

    name = "hibari"

    def voices(self):
        return ["heart"]

    def say(self, text, voice, speed=1.0, seed=0):
        parts, words, clock = [np.zeros(round(LEAD * SAMPLE_RATE), np.float32)], [], LEAD
        for word in text.split() or [""]:
            parts += [_tone(word), np.zeros(round((STEP - WORD) * SAMPLE_RATE), np.float32)]
            words += [Word(word, clock, clock + WORD)] if word else []
            clock += STEP
        return Utterance(np.concatenate(parts), tuple(words))


def requests() -> list[Request]:
    """Every line by a training speaker and by a held-out one, far lines by a third voice, and the system's."""
    users, systems = script_lines(0, draws=3000)
    wanted = [Request(t, "heart", "user") for t in users] + [Request(t, "heart", "system") for t in systems]
    wanted += [Request(t, "heart", "user", who="heart*0.88") for t in users if t.endswith("|far")]
    return wanted + [Request(t, "heart", "user", who=HELD_OUT_VOICE) for t in users]
