"""Where there is speech in a channel, at 10 ms: levels, a mask, stretches.

The live detector (`duplex.vad`) decides frame by frame with what it has heard; here the whole file is known, so that the
threshold can follow the channel's own speech level and noise floor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from duplex.text import Word
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE

HOP = 240
"""Samples in one step of a mask: 10 ms."""
RATE = SAMPLE_RATE // HOP
"""Steps a second."""
LOWEST_DB = -90.0


def levels(pcm: np.ndarray) -> np.ndarray:
    """RMS level in dB of full scale, per 10 ms and smoothed over 30 ms: [S] -> [ceil(S / 240)]."""
    padded = np.pad(pcm, (0, -len(pcm) % HOP)).reshape(-1, HOP)
    power = np.einsum("nh,nh->n", padded, padded, dtype=np.float64) / HOP
    power = np.convolve(power, np.ones(3) / 3, "same")
    return 10 * np.log10(np.maximum(power, 10 ** (LOWEST_DB / 10)))


def speech_level(level: np.ndarray) -> float:
    """The level that a channel exceeds for one second altogether (half of a shorter one): how loud its speech is."""
    count = max(1, min(RATE, len(level) // 2))
    return float(np.partition(level, -count)[-count])


def noise_level(level: np.ndarray) -> float:
    """The level that a channel stays below for a tenth of the time."""
    return float(np.percentile(level, 10))


def speech_mask(pcm: np.ndarray) -> np.ndarray:
    """bool, one value per 10 ms: [S] -> [ceil(S / 240)].

    Speech is what lies 10 dB above the noise floor (or half-way to the speech level, where that is nearer), within 35 dB of
    the speech level, and above -60 dB; holes up to 0.1 s are closed and bursts under 0.05 s dropped.
    """
    level = levels(pcm)
    loud, floor = speech_level(level), noise_level(level)
    mask = level > max(min(floor + 10, (floor + loud) / 2), loud - 35, -60.0)
    return _without_short(~_without_short(~mask, 0.1), 0.05)


def _without_short(mask: np.ndarray, seconds: float) -> np.ndarray:
    """The mask without runs of True shorter than ``seconds``; runs that touch the ends are kept."""
    mask = mask.copy()
    for first, end in runs(mask):
        if end - first < seconds * RATE and first > 0 and end < len(mask):
            mask[first:end] = False
    return mask


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """(first, end) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def segments(mask: np.ndarray) -> list[tuple[float, float]]:
    """Stretches of speech in seconds."""
    return [(first / RATE, end / RATE) for first, end in runs(mask)]


def span_mask(spans: Iterable[tuple[float, float]], length: int, margin: float = 0.0) -> np.ndarray:
    """bool [length] at 10 ms: True inside the spans (seconds), widened by ``margin`` seconds on both sides."""
    mask = np.zeros(length, bool)
    for start, end in spans:
        mask[max(0, round((start - margin) * RATE)) : max(0, round((end + margin) * RATE))] = True
    return mask


def word_mask(words: Sequence[Word], length: int, margin: float = 0.0) -> np.ndarray:
    """`span_mask` of words."""
    return span_mask(((word.start, word.end) for word in words), length, margin)


def frames_of(mask: np.ndarray) -> np.ndarray:
    """A 10 ms mask on the 80 ms grid: a frame is active when half of it is. The last frame may be a part of one."""
    per_frame = FRAME_SAMPLES // HOP
    padded = np.pad(mask, (0, -len(mask) % per_frame)).reshape(-1, per_frame)
    return padded.mean(1) >= 0.5
