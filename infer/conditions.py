"""Bad lines, bad clocks and open loudspeakers, made from a seed: what a simulated conversation can be put through."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from duplex.errors import ConfigError
from duplex.stretch import Resampler
from duplex.units import SAMPLE_RATE

TICK_MS = 10.0
TICK = SAMPLE_RATE // 100
"""Samples in one step of the simulated world."""


@dataclass(frozen=True)
class Conditions:
    """All that lies between a user and the model. The defaults are a perfect world."""

    delay_ms: float = 0.0
    """Mean delay of the network, in each direction."""
    jitter_ms: float = 0.0
    """Each packet's delay differs from it by up to this much, evenly spread."""
    stall_share: float = 0.0
    """Share of packets that come `stall_ms` later and hold up those behind them."""
    stall_ms: float = 200.0
    drift_ppm: float = 0.0
    """How much faster the clock of the loudspeaker runs than that of the microphone."""
    echo_db: float | None = None
    """Level of the loudspeaker in the microphone; None: headphones."""
    echo_delay_ms: float = 120.0
    """From the buffer of the loudspeaker to the microphone's."""
    cancel: bool = True
    """Echo cancellation, where there is an echo."""
    noise_db: float | None = None
    """Level of the noise at the microphone; None: silence."""

    def __post_init__(self) -> None:
        for name, least, most in (("delay_ms", 0, 10_000), ("jitter_ms", 0, 10_000), ("stall_share", 0, 1),
                                  ("stall_ms", 0, 60_000), ("drift_ppm", -4_000, 4_000), ("echo_delay_ms", 0, 1_000)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name}: must lie in {least:g}..{most:g}, not be {getattr(self, name)}")
        if self.jitter_ms > self.delay_ms:
            raise ConfigError(f"jitter_ms ({self.jitter_ms:g}) cannot exceed delay_ms ({self.delay_ms:g}): nothing comes before "
                              "it was sent")

    @property
    def perfect(self) -> bool:
        """Is there nothing between user and model?"""
        return self == Conditions(cancel=self.cancel, stall_ms=self.stall_ms, echo_delay_ms=self.echo_delay_ms)


Item = TypeVar("Item")


class Link(Generic[Item]):
    """One direction of a connection that delivers everything, in order and late."""

    def __init__(self, conditions: Conditions, seed: int) -> None:
        self._conditions = conditions
        self._rng = np.random.default_rng(seed)
        self._under_way: deque[tuple[float, Item]] = deque()
        self._last = 0.0

    def send(self, item: Item, now_ms: float) -> None:
        """Hands an item to the link."""
        c = self._conditions
        late, stalled = self._rng.uniform(-1, 1), self._rng.random() < c.stall_share
        self._last = max(self._last, now_ms + c.delay_ms + c.jitter_ms * late + c.stall_ms * stalled)
        self._under_way.append((self._last, item))

    def arrived(self, now_ms: float) -> list[Item]:
        """What has come by now."""
        items = []
        while self._under_way and self._under_way[0][0] <= now_ms:
            items.append(self._under_way.popleft()[1])
        return items


def room(seed: int, seconds: float = 0.25) -> np.ndarray:
    """Impulse response of a loudspeaker in a room, float32 [S], energy 1: direct sound, early reflections, diffuse tail.

    The tail falls by 60 dB within the reverberation time and faster at high frequencies, as rooms with furniture do; the
    loudspeaker is a small one that gives little below 200 Hz.
    """
    rng, n = np.random.default_rng(seed), int(seconds * SAMPLE_RATE)
    time = np.arange(n) / SAMPLE_RATE
    response = np.zeros(n)
    response[0] = 1.0
    for _ in range(12):
        place = rng.uniform(0.001, 0.03)
        response[int(place * SAMPLE_RATE)] += rng.choice((-1, 1)) * 0.5 * 0.001 ** (place / 0.06)
    bands = [(0, 1_000, 0.35), (1_000, 4_000, 0.28), (4_000, 12_000, 0.18)]  # Hz, reverberation time in seconds
    frequencies = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    for low, high, reverberation in bands:
        spectrum = np.fft.rfft(rng.normal(0, 1, n)) * ((frequencies >= low) & (frequencies < high))
        response += 0.03 * np.fft.irfft(spectrum, n) * 10 ** (-3 * time / reverberation) * (time > 0.008)
    spectrum = np.fft.rfft(response, 2 * n)
    hertz = np.fft.rfftfreq(2 * n, 1 / SAMPLE_RATE)
    speaker = (hertz / 200) ** 2 / (1 + (hertz / 200) ** 2)
    response = np.fft.irfft(spectrum * speaker)[:n]
    return (response / np.sqrt(np.sum(response**2))).astype(np.float32)


class EchoPath:
    """What the microphone hears of the loudspeaker, tick by tick."""

    def __init__(self, conditions: Conditions, seed: int) -> None:
        response = room(seed) * 10 ** (conditions.echo_db / 20)  # type: ignore[operator]
        delay = round(conditions.echo_delay_ms * SAMPLE_RATE / 1000)
        self._length = len(response) + delay
        self._size = 1 << (self._length + TICK - 1).bit_length()
        self._spectrum = np.fft.rfft(np.concatenate([np.zeros(delay), response]), self._size)
        self._tail = np.zeros(self._size)

    def push(self, air: np.ndarray) -> np.ndarray:
        """Takes what the loudspeaker gives in a tick, [240]; returns its echo at the microphone, float32 [240]."""
        self._tail += np.fft.irfft(np.fft.rfft(air, self._size) * self._spectrum, self._size)
        echo = self._tail[:TICK].astype(np.float32)
        self._tail = np.concatenate([self._tail[TICK:], np.zeros(TICK)])
        return echo


class Loudspeaker:
    """A device with a clock of its own: pulls its samples from `pull` and gives the sound in the time of the room."""

    def __init__(self, drift_ppm: float) -> None:
        self._step = 1 + drift_ppm * 1e-6
        self._resampler = Resampler()

    def tick(self, pull) -> np.ndarray:
        """float32 [240]; `pull(n)` gives the device's next n samples."""
        return self._resampler.pull(pull, TICK, self._step)
