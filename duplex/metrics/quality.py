"""How much of a waveform survives a codec: SI-SDR, multi-resolution STFT distance, use of the codebooks.

STOI and PESQ come from their packages (`benchmarks.codec`). None of these replaces listeners: a codec trained against
discriminators keeps what is said and by whom, not the waveform, and its SI-SDR may be negative where it sounds well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from duplex.errors import InputError
from duplex.units import FRAME_RATE

STFT_SIZES = (512, 1024, 2048)
_FLOOR = 1e-5


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB of two signals [S] (arXiv:1811.02508, equation 3).

    Raises InputError for signals of different length or a silent reference.
    """
    reference, estimate = _pair(reference, estimate)
    reference, estimate = reference - reference.mean(), estimate - estimate.mean()
    power = float(reference @ reference)
    if power < 1e-12:
        raise InputError("the reference is silent; leave the clip out")
    target = (float(estimate @ reference) / power) * reference
    noise = estimate - target
    return 10 * math.log10((float(target @ target) + 1e-12) / (float(noise @ noise) + 1e-12))


def stft_distance(reference: np.ndarray, estimate: np.ndarray, sizes: Sequence[int] = STFT_SIZES) -> float:
    """Spectral convergence plus mean difference of log magnitudes, averaged over resolutions (arXiv:1910.11480, section 2.2).

    Signals [S] of one length; windows are Hann, hops a quarter. 0 for equal signals.
    """
    reference, estimate = _pair(reference, estimate)
    distances = []
    for size in sizes:
        a, b = _magnitudes(reference, size), _magnitudes(estimate, size)
        convergence = float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-12))
        distances.append(convergence + float(np.abs(np.log(a + _FLOOR) - np.log(b + _FLOOR)).mean()))
    return float(np.mean(distances))


def codebook_use(codes_KT: np.ndarray, cardinality: int) -> list[dict[str, float]]:
    """Per codebook of codes [K, T]: share of entries ``used``, entropy in ``bits`` and ``perplexity`` (2 to the bits)."""
    found = []
    for row in codes_KT:
        counts = np.bincount(row, minlength=cardinality)
        shares = counts[counts > 0] / counts.sum()
        bits = float(-(shares * np.log2(shares)).sum())
        found.append({"used": float((counts > 0).mean()), "bits": bits, "perplexity": 2.0**bits})
    return found


def bitrate(n_codebooks: int, cardinality: int) -> float:
    """Nominal bits per second of a codec with one frame in 80 ms."""
    return FRAME_RATE * n_codebooks * math.log2(cardinality)


def _pair(reference: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if reference.ndim != 1 or reference.shape != estimate.shape or len(reference) == 0:
        raise InputError(f"signals have shapes {list(reference.shape)} and {list(estimate.shape)}; give two of one length")
    return reference.astype(np.float64), estimate.astype(np.float64)


def _magnitudes(signal: np.ndarray, size: int) -> np.ndarray:
    hop = size // 4
    padded = np.pad(signal, (0, max(0, size - len(signal))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(size), axis=-1))
