"""How late the chunks of a source come, and the delay that would have been enough for nearly all of them.

Pure: time is what the device has taken. All values are in samples of 24 kHz.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from duplex.units import SAMPLE_RATE

_STRETCH = SAMPLE_RATE // 2
"""What comes late within half a second of something else late is taken for the same stall."""
_PUNCTUAL = 10 * SAMPLE_RATE
"""The most punctual chunk of so long is the measure of the others: a source that left sound out is late for no longer."""


class Lateness:
    """Remembers the greatest lateness of every half second for `memory` samples."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._offsets: deque[tuple[int, int]] = deque()  # (time, offset), increasing: its first is the most punctual one
        self._peaks: deque[tuple[int, int]] = deque()  # (time, greatest lateness of the stretch that begins there)
        self._begun: int | None = None

    def seen(self, now: int, offset: int) -> int:
        """Takes when a chunk came and how much the device had taken beyond what the source had given; gives its lateness."""
        while self._offsets and self._offsets[0][0] < now - _PUNCTUAL:
            self._offsets.popleft()
        while self._offsets and self._offsets[-1][1] >= offset:
            self._offsets.pop()
        self._offsets.append((now, offset))
        return offset - self._offsets[0][1]

    def remember(self, now: int, lateness: int) -> None:
        """Counts a lateness among those that a delay should cover."""
        self._begun = now if self._begun is None else self._begun
        while self._peaks and self._peaks[0][0] < now - self._memory:
            self._peaks.popleft()
        if self._peaks and now - self._peaks[-1][0] < _STRETCH:
            self._peaks[-1] = (self._peaks[-1][0], max(self._peaks[-1][1], lateness))
        else:
            self._peaks.append((now, lateness))

    def begin_anew(self, now: int, offset: int) -> None:
        """From now on this offset is the punctual one; what was remembered stays."""
        self._offsets.clear()
        self._offsets.append((now, offset))

    def enough(self, share: float) -> float:
        """The least delay with which at most this share of the remembered time would have been silence.

        With a delay D a stall of lateness p leaves p - D of silence: the sum of all max(p - D, 0) is to be `share` of the time.
        """
        if not self._peaks:
            return 0.0
        peaks = -np.sort(-np.array([peak for _, peak in self._peaks], float))
        elapsed = min(self._peaks[-1][0] - self._begun, self._memory)  # type: ignore[operator]
        # If the k greatest exceed D, their sum less k D is the silence; D is right where the next one does not exceed it.
        delays = (np.cumsum(peaks) - share * elapsed) / np.arange(1, len(peaks) + 1)
        return max(float(delays.max()), 0.0)
