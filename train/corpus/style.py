"""Manners of speaking that an engine does not know, made from its samples: level, distance, mumbling.

Fast, slow, high and low are asked of the engine (`train.corpus.speakers`); what is done here keeps every word in its place.
"""

from __future__ import annotations

import numpy as np

from duplex.units import SAMPLE_RATE
from train.corpus.exchange import FAR, MUMBLED

PEAK = 0.5
PEAKS = {"loud": 0.99, "quiet": 0.02, FAR: 0.05}
GAIN_DB = (-14.0, 4.0)
"""Loudness of a user's channel, relative to the bank (dB, uniform)."""
GAINS_DB = {"loud": (0.0, 0.0), "quiet": (-4.0, 0.0), FAR: (-6.0, 4.0)}
MUMBLE_HZ, MUMBLE_SECONDS = 700.0, 0.13
FAR_HZ, FAR_SECONDS = 2500.0, 0.35


def gain_range(mark: str) -> tuple[float, float]:
    """Decibels by which a clip with this mark may be turned up or down and still be what the mark says."""
    return GAINS_DB.get(mark, GAIN_DB)


def peak_of(mark: str) -> float:
    """The largest sample that a clip with this mark has in the bank."""
    return PEAKS.get(mark, PEAK)


def styled(samples: np.ndarray, mark: str, seed: int) -> np.ndarray:
    """float32 [S] spoken as the mark says, of the same length."""
    if mark == "loud":  # a raised voice has more energy in its overtones
        return np.tanh(3.0 * samples / max(1e-6, float(np.abs(samples).max()))).astype(np.float32)
    if mark == MUMBLED:
        return mumbled(samples)
    if mark == FAR:
        return distant(samples, seed)
    return samples


def mumbled(samples: np.ndarray) -> np.ndarray:
    """Speech without words: pieces of 130 ms run backwards, and only the low frequencies are left."""
    piece = round(MUMBLE_SECONDS * SAMPLE_RATE)
    window = np.hanning(piece // 8)
    out = samples.copy()
    for at in range(0, len(samples), piece):
        part = samples[at : at + piece][::-1].copy()
        edge = min(len(window) // 2, len(part) // 2)
        part[:edge] *= window[:edge]
        part[len(part) - edge :] *= window[len(window) - edge :]
        out[at : at + piece] = part
    return _low_pass(out, MUMBLE_HZ)


def distant(samples: np.ndarray, seed: int) -> np.ndarray:
    """A voice from across the room: dull, with a tail of decaying noise for reverberation."""
    rng = np.random.default_rng((seed, 7))
    length = round(FAR_SECONDS * SAMPLE_RATE)
    tail = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length) * 0.05
    tail[0] = 1.0
    size = 1 << (len(samples) + length).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size))[: len(samples)]
    return _low_pass(wet.astype(np.float32), FAR_HZ)


def _low_pass(samples: np.ndarray, hertz: float) -> np.ndarray:
    """Falls by 24 dB an octave above ``hertz`` and moves nothing in time."""
    size = 1 << max(1, len(samples) - 1).bit_length()
    falling = 1.0 / (1.0 + (np.fft.rfftfreq(size, 1 / SAMPLE_RATE) / hertz) ** 4)
    return np.fft.irfft(np.fft.rfft(samples, size) * falling, size)[: len(samples)].astype(np.float32)
