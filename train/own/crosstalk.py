"""How much of one speaker is heard in the other's channel.

Leakage follows the speaker's own waveform, delayed as an echo is. Stretches of a sixth of a second in which one speaks louder
than the other are correlated with the other channel at every delay that an echo may have. Chance correlations change their
sign from stretch to stretch; a leak does not, and is found below the noise by that.
"""

from __future__ import annotations

import numpy as np

from train.own.speech import HOP

DECIMATE = 3  # 24 kHz -> 8 kHz: leakage is judged where speech has its power
CHUNK = 16  # steps of 10 ms
EARLIEST, LATEST = 2, 55  # steps by which a leak may precede (channels out of step) and follow (echo)
SIGNIFICANT = 6.0
"""Sum over the stretches in units of what chance gives; the largest of a thousand delays comes near 4 by chance."""
AT_MOST = 3.0
"""A leak is at least this many dB below its source: what is louder is the other's own speech."""
MAX_CHUNKS = 600


def crosstalk_db(pcm: np.ndarray, masks: list[np.ndarray], level: list[np.ndarray]) -> tuple[float, float]:
    """Level in dB of the system in the user's channel relative to its own, and of the user in the system's.

    ``pcm`` [2, S]; ``masks`` and ``level`` per 10 ms. -inf where no leak is found, or where less than some six seconds of one
    speaker alone leave it open.
    """
    first, second = (_leak_db(pcm[s], pcm[1 - s], masks[s], level[s], level[1 - s]) for s in (0, 1))
    return first, second


def _leak_db(source: np.ndarray, target: np.ndarray, mask: np.ndarray, source_db: np.ndarray, target_db: np.ndarray) -> float:
    recent = source_db.copy()  # the loudest that an echo now heard can have been
    for shift in range(1, LATEST, 6):
        recent[shift:] = np.maximum(recent[shift:], source_db[:-shift])
    own = target_db > recent - AT_MOST
    step = HOP // DECIMATE
    low_source, low_target = _low(source), _low(target) * np.repeat(~own, step)[: len(source) // DECIMATE]
    starts = [n for n in range(EARLIEST, len(mask) - CHUNK - LATEST, CHUNK)
              if mask[n : n + CHUNK].mean() > 0.8 and own[n : n + CHUNK].mean() < 0.2]
    starts = starts[:: -(-len(starts) // MAX_CHUNKS)] if starts else []
    if len(starts) < SIGNIFICANT**2:
        return float("-inf")
    length, reach = CHUNK * step, (EARLIEST + CHUNK + LATEST) * step
    sources = np.stack([low_source[n * step : n * step + length] for n in starts])
    targets = np.stack([low_target[(n - EARLIEST) * step :][:reach] for n in starts])
    sources, targets = sources - sources.mean(1, keepdims=True), targets - targets.mean(1, keepdims=True)
    size = 1 << (reach + length - 1).bit_length()
    products = np.fft.irfft(np.conj(np.fft.rfft(sources, size)) * np.fft.rfft(targets, size), size)
    products = products[:, : (EARLIEST + LATEST) * step]  # [stretches, delays]
    energy = np.square(sources).sum(1)
    scale = np.sqrt(energy * np.square(targets).sum(1))
    known = scale > 1e-9 * max(float(energy.max()), 1e-12)
    if known.sum() < SIGNIFICANT**2:
        return float("-inf")
    alike = products[known] / scale[known, None]
    strength = alike.sum(0) / np.sqrt(np.square(alike).sum(0) + 1e-12)
    best = int(np.argmax(np.abs(strength)))
    if abs(strength[best]) < SIGNIFICANT:
        return float("-inf")
    gain = abs(float(products[known, best].sum())) / float(energy[known].sum())
    return float(20 * np.log10(max(gain, 1e-6)))


def _low(track: np.ndarray) -> np.ndarray:
    """Every third sample after a mean over three."""
    return track[: len(track) // DECIMATE * DECIMATE].reshape(-1, DECIMATE).mean(1, dtype=np.float64)
