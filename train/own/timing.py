"""Do the word times follow the sound? Shift and drift between words and speech, and what lies outside speech.

Where a speaker begins after a silence, the words say when and the sound says when. The words' beginnings are laid over the
sound's under every shift and every drift; the pair under which most of them meet is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from duplex.text import Word
from train.own.speech import RATE, runs, word_mask

REACH = 2.0
"""Largest shift in the middle of the recording, in seconds ..."""
DRIFTS = np.arange(-60, 61) * 0.05
"""... and the drifts that are tried: change of the shift over the recording, in seconds."""
SILENCE = 0.25
"""Seconds of silence before a beginning."""
SHARP = 0.1
"""Seconds within which beginnings meet."""
AGREEMENT = 0.4
"""Share of the beginnings that must meet."""
GAIN = 0.1
"""Share of the beginnings by which a drift must meet more of them than no drift does."""
MAX_BEGINNINGS = 400


@dataclass(frozen=True)
class Timing:
    """Words come ``shift`` seconds late (negative: early) in the middle of the recording; ``drift`` is the change over it."""

    shift: float = 0.0
    drift: float = 0.0
    seconds: float = 0.0
    beginnings: int = 0
    """How many beginnings there were to tell from."""
    reliable: bool = False
    """Did enough of them meet?"""

    def corrected(self, words: Sequence[Word]) -> list[Word]:
        """The words with shift and drift taken off."""
        return [Word(w.text, w.start - self.at(w.start), w.end - self.at(w.start)) for w in words]

    def at(self, time: float) -> float:
        """How late words are at a time."""
        if not (self.reliable and self.seconds):
            return 0.0
        return self.shift + self.drift * (time / self.seconds - 0.5)

    def coverage(self, words: Sequence[Word], mask: np.ndarray) -> list[float]:
        """Share of each corrected word, 50 ms of leeway around it, in which the mask is set."""
        shares = []
        for word in self.corrected(words):
            first, end = round((word.start - 0.05) * RATE), round((word.end + 0.05) * RATE)
            part = mask[max(0, first) : max(0, end)]
            # A word that ends beyond the recording, which was cut within it, is judged by what is there.
            shares.append(float(part.mean()) if len(part) else 1.0)
        return shares


def timing(sides: Sequence[Sequence[Word]], masks: Sequence[np.ndarray]) -> Timing:
    """Shift and drift of both speakers' words against both channels' speech masks (10 ms)."""
    length = len(masks[0])
    seconds = length / RATE
    labelled = [side for side in (0, 1) if sides[side]]
    begun = {side: beginnings(word_mask(sides[side], length)) for side in labelled}
    heard = {side: _tents(beginnings(masks[side]), length) for side in labelled}
    reach = round(REACH * RATE)
    onsets = [(side, onset) for side in labelled for onset in begun[side]]
    onsets = onsets[:: -(-len(onsets) // MAX_BEGINNINGS)] if onsets else []
    if len(onsets) < 3:
        return Timing(seconds=seconds, beginnings=len(onsets))
    sides_n, at = np.array(onsets).T
    lines = np.stack([heard.get(side, np.zeros(length + 2 * _MARGIN)) for side in (0, 1)])
    lags = np.arange(-reach, reach + 1)
    best, still = (-1.0, 0, 0.0), (-1.0, 0, 0.0)
    for drift in sorted(DRIFTS, key=abs):
        # Words that come late by shift + drift * place meet the sound that much earlier.
        moved = at - np.round(drift * RATE * (at / length - 0.5)).astype(int) + _MARGIN
        scores = lines[sides_n[:, None], moved[:, None] + lags].mean(0)
        lag = int(np.argmax(scores - 1e-6 * np.abs(lags)))
        found = (float(scores[lag]), -int(lags[lag]), float(drift))
        best = max(best, found, key=lambda f: f[0] + 1e-9)
        still = found if drift == 0 else still
    if best[0] < still[0] + GAIN or len(onsets) < 6:
        best = still
    return Timing(best[1] / RATE, best[2], seconds, len(onsets), best[0] >= AGREEMENT)


def beginnings(mask: np.ndarray) -> np.ndarray:
    """Steps at which a run of True begins after `SILENCE`; a run at the very start does not tell when it began."""
    found, last = [], None
    for first, end in runs(mask):
        if first > 0 and (last is None or first - last > SILENCE * RATE):
            found.append(first)
        last = end
    return np.array(found, dtype=int)


_MARGIN = round((REACH + float(DRIFTS.max())) * RATE)


def _tents(onsets: np.ndarray, length: int) -> np.ndarray:
    """float [length + 2 * _MARGIN]: 1 at each onset, falling to 0 within `SHARP` seconds, moved right by the margin."""
    half = round(SHARP * RATE)
    line = np.zeros(length + 2 * _MARGIN)
    tent = 1 - np.abs(np.arange(-half, half + 1)) / (half + 1)
    for onset in onsets:
        part = line[onset + _MARGIN - half : onset + _MARGIN + half + 1]
        np.maximum(part, tent, out=part)
    return line
