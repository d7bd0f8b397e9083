"""Small changes of speed: a resampler whose ratio may move while it runs, and cuts that remove milliseconds unheard.

Both serve `duplex.playout`. The resampler changes pitch and speed together and is for the thousandths by which two
clocks differ; the cut keeps the pitch and is for tens of milliseconds that have to go soon.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from duplex.units import SAMPLE_RATE

TAPS = 16
"""Input samples that make one output sample."""
_BEFORE = TAPS // 2 - 1  # of them, those before the sample at or left of the output's place
_PHASES = 512
_KAISER = 8.0


def _kernel() -> np.ndarray:
    """[phases + 1, taps]: a windowed sinc for every fraction of a sample; row 0 is a one among zeros."""
    fractions = np.arange(_PHASES + 1)[:, None] / _PHASES
    offsets = np.arange(TAPS)[None] - _BEFORE - fractions
    window = np.i0(_KAISER * np.sqrt(np.clip(1 - (offsets / (TAPS / 2)) ** 2, 0, 1))) / np.i0(_KAISER)
    rows = np.sinc(offsets) * window
    return (rows / rows.sum(1, keepdims=True)).astype(np.float32)


_KERNEL = _kernel()


class Resampler:
    """Reads a stream at `step` input samples per output sample, where `step` is near 1 and may differ at each call."""

    def __init__(self) -> None:
        self._buffer = np.zeros(_BEFORE, np.float32)  # input that is still needed
        self._place = float(_BEFORE)  # of the next output sample, in the buffer

    @property
    def delay_samples(self) -> float:
        """Input samples that were taken and have not yet come out."""
        return len(self._buffer) - self._place

    def pull(self, take: Callable[[int], np.ndarray], n: int, step: float) -> np.ndarray:
        """The next `n` output samples, float32 [n]; `take(m)` must give the next m input samples."""
        if n == 0:
            return np.zeros(0, np.float32)
        places = self._place + step * np.arange(n)
        needed = int(places[-1]) + TAPS - _BEFORE - len(self._buffer)
        if needed > 0:
            self._buffer = np.concatenate([self._buffer, take(needed)])
        left = places.astype(np.int64)
        fraction = places - left
        if step == 1.0 and not fraction.any():
            out = self._buffer[left[0] : left[0] + n].copy()
        else:
            windows = np.lib.stride_tricks.sliding_window_view(self._buffer, TAPS)[left - _BEFORE]
            phase = fraction * _PHASES
            row = phase.astype(np.int64)
            part = (phase - row).astype(np.float32)[:, None]
            out = np.einsum("nt,nt->n", windows, _KERNEL[row] * (1 - part) + _KERNEL[row + 1] * part)
        self._place += step * n
        used = int(self._place) - _BEFORE
        self._buffer, self._place = self._buffer[used:], self._place - used
        return out


FADE = SAMPLE_RATE // 100
"""Samples over which the two ends of a cut are blended: 10 ms."""
MIN_LAG, MAX_LAG = SAMPLE_RATE // 400, SAMPLE_RATE // 80
"""A cut takes 2.5 to 12.5 ms out: one period of any voice, or several."""
CUT_SAMPLES = FADE + MAX_LAG
"""Samples that `cut` looks at."""
_SILENT_POWER = 1e-5  # -50 dB


def cut(pcm: np.ndarray) -> np.ndarray | None:
    """[CUT_SAMPLES] shortened by the lag at which it resembles itself most; None where no cut would go unheard.

    The beginning and the end stay as they are, so that the result fits between its neighbours.
    """
    head = pcm[:FADE].astype(np.float64)
    lags = np.lib.stride_tricks.sliding_window_view(pcm.astype(np.float64), FADE)[MIN_LAG : MAX_LAG + 1]
    energy = np.einsum("ls,ls->l", lags, lags)
    if max(float(energy.max()), float(head @ head)) < _SILENT_POWER * FADE:
        lag = MAX_LAG
    else:
        likeness = lags @ head / np.sqrt(np.maximum(energy * (head @ head), 1e-12))
        best = int(likeness.argmax())
        if likeness[best] < 0.5:
            return None
        lag = MIN_LAG + best
    ramp = np.linspace(0, 1, FADE, dtype=np.float32)
    blended = pcm[:FADE] * (1 - ramp) + pcm[lag : lag + FADE] * ramp
    return np.concatenate([blended, pcm[lag + FADE :]]).astype(np.float32)
