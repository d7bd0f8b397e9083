"""Between a source of sound that comes in bursts and a device that takes it evenly: the jitter buffer of every live end.

Pure: it reads no clock. Time is what the device has taken, so that the same calls give the same sound anywhere.

Words. The *wait* of a chunk is the time that its first sample lies in the buffer; a chunk that comes late by v waits v
less. `wait + lateness` is therefore one number for all chunks, the delay that the buffer adds to a punctual one, and
that is what is steered. Lateness is measured against the most punctual chunk of the last seconds. The wanted delay is one
that would have been enough for nearly all of the last minute (`duplex.lateness`) plus a margin, between the limits of the
configuration. Differences of a few milliseconds, and those between two clocks, go by playing up to 0.5 % faster or slower;
an excess above 20 ms by cuts of single periods of the voice; only what exceeds `cap_ms` is dropped outright,
and counted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from duplex.errors import ConfigError
from duplex.lateness import Lateness
from duplex.stretch import CUT_SAMPLES, Resampler, cut
from duplex.units import SAMPLE_RATE

_MS = SAMPLE_RATE // 1000  # samples
_FADE = 5 * _MS


@dataclass(frozen=True)
class PlayoutConfig:
    """How much delay is added for even sound. Milliseconds. The defaults are for devices on this machine, see `NETWORK`."""

    wait_ms: float = 60.0
    """Delay of a punctual chunk while nothing comes late. Chunks of 80 ms then fill the buffer to 100 ms on average."""
    cap_ms: float = 250.0
    """Greatest delay: what would wait longer is dropped, oldest first."""
    margin_ms: float = 20.0
    """Kept beyond the delay that would have been enough."""
    memory_seconds: float = 60.0
    """How long a lateness is remembered; 0: the delay does not adapt."""
    silent_share: float = 0.004
    """A delay would have been enough when it left no more than this share of the remembered time silent."""
    max_correction: float = 0.005
    """Greatest change of speed by resampling."""
    cut_excess_ms: float = 20.0
    """An excess above this is cut out, a period at a time ..."""
    cut_every_ms: float = 60.0
    """... and at most one within this time."""

    def __post_init__(self) -> None:
        if not 0 <= self.wait_ms + self.margin_ms <= self.cap_ms:
            raise ConfigError(f"wait_ms ({self.wait_ms:g}) and margin_ms ({self.margin_ms:g}) together must not exceed "
                              f"cap_ms ({self.cap_ms:g})")
        if not 0 <= self.max_correction <= 0.05:
            raise ConfigError(f"max_correction must lie in 0..0.05, not be {self.max_correction:g}")


NETWORK = PlayoutConfig(cap_ms=500.0)
"""Behind a network: the user's sound and the answer to it can both be held up, so one answer is late by the sum of the two.

The delay that is really kept is what the connection needed in the last minute; on a good one that is `wait_ms`, as for devices.
"""


@dataclass
class PlayoutCounters:
    """What has happened so far, in samples unless it says otherwise."""

    played: int = 0
    """Given to the device, of whatever kind."""
    underrun: int = 0
    """Of them, silence because nothing was there."""
    underruns: int = 0
    """Times that this began."""
    dropped: int = 0
    """Thrown away because the delay had passed its cap."""
    cut: int = 0
    """Taken out in single periods of the voice."""
    flushed: int = 0
    """Silenced by `flush`."""


@dataclass(frozen=True)
class Piece:
    """Part of a chunk that left the buffer."""

    tag: int
    """What `push` was given with the chunk."""
    samples: int
    heard: bool
    """Went to the device; False: was flushed or dropped."""


@dataclass(frozen=True)
class Pulled:
    """What the device gets, and what it is made of."""

    pcm: np.ndarray
    """float32 [n] at the device's rate of the moment."""
    source: np.ndarray
    """The same sound in the clock of the source: the reference of an echo canceller, free of the drift between the two."""
    pieces: tuple[Piece, ...]


class PlayoutBuffer:
    """Chunks in by `push`, even sound out by `pull`; one thread at a time."""

    def __init__(self, config: PlayoutConfig = PlayoutConfig()) -> None:  # noqa: B008 (frozen)
        self.config = config
        self.counters = PlayoutCounters()
        self.restart()

    def restart(self) -> None:
        """Forgets sound and measurements, for a device that comes back; the counters go on."""
        self._queue: deque[tuple[int, np.ndarray]] = deque()
        self._fill = 0
        self._resampler = Resampler()
        self._device = 0  # samples that the device took
        self._pushed = 0  # samples that the source gave
        self._lateness = Lateness(round(self.config.memory_seconds * SAMPLE_RATE))
        self._enough = 0.0
        self._delay: float | None = None
        self._step = 1.0
        self._starved = True
        self._tail = np.zeros(_FADE, np.float32)  # last sound played
        self._ghost = np.zeros(0, np.float32)  # what is left of it, mirrored and fading, where nothing follows
        self._next_cut = 0
        self._taken: list[np.ndarray] = []
        self._pieces: list[Piece] = []

    @property
    def fill_ms(self) -> float:
        """Sound in the buffer."""
        return self._fill / _MS

    @property
    def delay_ms(self) -> float:
        """What the buffer now adds to a punctual chunk; 0 before the first."""
        return 0.0 if self._delay is None else self._delay / _MS

    @property
    def target_ms(self) -> float:
        """The delay that is wanted."""
        return min(max(self.config.wait_ms, self._enough / _MS + self.config.margin_ms), self.config.cap_ms)

    @property
    def correction_ppm(self) -> float:
        """How much faster than given the sound is being played."""
        return (self._step - 1) * 1e6

    def push(self, pcm: np.ndarray, tag: int = -1) -> tuple[Piece, ...]:
        """Takes the next chunk, float32 [S] at 24 kHz. `tag` comes back in the pieces, -1 for none.

        Gives what had to be dropped for it.
        """
        if len(pcm) == 0:
            return ()
        if self._delay is None:  # the first one waits as long as is wanted
            self._enqueue(-1, np.zeros(round(self.config.wait_ms * _MS), np.float32))
        self._measure()
        self._enqueue(tag, np.asarray(pcm, np.float32))
        self._pushed += len(pcm)
        if self.delay_ms > self.config.cap_ms:
            return self._drop(round(self._delay - self.target_ms * _MS))
        return ()

    def skip(self, samples: int) -> None:
        """The source has left so much out that will never come: what follows is not late because of it."""
        self._pushed += samples

    def pull(self, n: int) -> Pulled:
        """Gives the device `n` samples: always, and at once."""
        self._steer()
        self._taken, self._pieces = [], []
        pcm = self._resampler.pull(self._take, n, self._step)
        self._device += n
        self.counters.played += n
        source = np.concatenate(self._taken) if self._taken else np.zeros(0, np.float32)
        return Pulled(pcm, source, tuple(self._pieces))

    def flush(self) -> tuple[Piece, ...]:
        """Silences what has not been played. The silence takes its place, so that the delay stays as it was."""
        pieces = tuple(Piece(tag, len(pcm), False) for tag, pcm in self._queue if tag >= 0)
        self.counters.flushed += sum(piece.samples for piece in pieces)
        silence = np.zeros(self._fill, np.float32)
        fading = min(_FADE, self._fill)
        if fading:  # no click where the voice is cut off
            head = np.concatenate([pcm for _, pcm in self._queue])[:fading]
            silence[:fading] = head * np.linspace(1, 0, fading, dtype=np.float32)
        self._queue.clear()
        if self._fill:
            self._queue.append((-1, silence))
        return pieces

    def _enqueue(self, tag: int, pcm: np.ndarray) -> None:
        self._queue.append((tag, pcm))
        self._fill += len(pcm)

    def _measure(self) -> None:
        """Lateness of the chunk that comes now, the delay that the buffer has, and the one that would be enough."""
        now, offset = self._device, self._device - self._pushed
        lateness = self._lateness.seen(now, offset)
        if lateness > 2 * self.config.cap_ms * _MS:
            # No delay helps against this. The source has paused, or has left sound out: its time begins anew.
            self._lateness.begin_anew(now, offset)
            lateness = 0
            if self._fill == 0:
                self._enqueue(-1, np.zeros(round(self.config.wait_ms * _MS), np.float32))
        if self.config.memory_seconds:
            self._lateness.remember(now, lateness)
            self._enough = self._lateness.enough(self.config.silent_share)
        self._delay = self._fill + lateness

    def _steer(self) -> None:
        """Sets the speed, and cuts where speed alone would take too long."""
        if self._delay is None:
            return
        excess_ms = self.delay_ms - self.target_ms
        if abs(excess_ms) < 0.5 and abs(self._step - 1) < 1e-6:
            self._step = 1.0  # two equal clocks: the sound passes bit for bit
        else:
            # All of it at 50 ms: clocks that differ by 200 ppm settle 2 ms off the target.
            self._step = 1 + min(max(excess_ms / 50, -1.0), 1.0) * self.config.max_correction
        if excess_ms > self.config.cut_excess_ms and self._device >= self._next_cut and self._fill > 2 * CUT_SAMPLES:
            self._cut()

    def _cut(self) -> None:
        head = self._pop(CUT_SAMPLES)
        shorter = cut(np.concatenate([pcm for _, pcm in head]))
        if shorter is None:
            self._queue.extendleft(reversed(head))
            self._fill += CUT_SAMPLES
            self._next_cut = self._device + 10 * _MS  # try the next sounds soon
            return
        removed = CUT_SAMPLES - len(shorter)
        end = len(shorter)
        for tag, pcm in reversed(head):  # the cut is in the first parts: later ones keep their lengths
            length = min(len(pcm), end)
            if length:
                self._queue.appendleft((tag, shorter[end - length : end]))
            end -= length
        self._fill += len(shorter)
        self.counters.cut += removed
        self._delay -= removed
        self._next_cut = self._device + round(self.config.cut_every_ms * _MS)

    def _drop(self, samples: int) -> tuple[Piece, ...]:
        dropped = self._pop(min(samples, self._fill))
        count = sum(len(pcm) for _, pcm in dropped)
        self.counters.dropped += count
        self._delay -= count
        return tuple(Piece(tag, len(pcm), False) for tag, pcm in dropped if tag >= 0)

    def _pop(self, samples: int) -> list[tuple[int, np.ndarray]]:
        """Takes at most `samples` from the front of the queue."""
        parts = []
        while samples > 0 and self._queue:
            tag, pcm = self._queue.popleft()
            if len(pcm) > samples:
                self._queue.appendleft((tag, pcm[samples:]))
                pcm = pcm[:samples]
            parts.append((tag, pcm))
            samples -= len(pcm)
            self._fill -= len(pcm)
        return parts

    def _take(self, samples: int) -> np.ndarray:
        """Exactly `samples` of the source; silence where there are not as many."""
        parts = self._pop(samples)
        self._pieces += [Piece(tag, len(pcm), True) for tag, pcm in parts if tag >= 0]
        sound = np.concatenate([pcm for _, pcm in parts]) if parts else np.zeros(0, np.float32)
        if self._starved and len(sound):
            fading, left = min(_FADE, len(sound)), min(len(self._ghost), len(sound))
            sound = sound.copy()
            sound[:fading] *= np.linspace(0, 1, _FADE, dtype=np.float32)[:fading]
            sound[:left] += self._ghost[:left]
            self._starved, self._ghost = False, self._ghost[:0]
        missing = samples - len(sound)
        self._tail = np.concatenate([self._tail, sound])[-_FADE:]
        if missing:
            sound = np.concatenate([sound, self._silence(missing)])
        self._taken.append(sound)
        return sound

    def _silence(self, samples: int) -> np.ndarray:
        """Silence that begins without a click: the last sound mirrored and faded."""
        silence = np.zeros(samples, np.float32)
        if self._delay is None:
            return silence
        self.counters.underrun += samples
        if not self._starved:
            self.counters.underruns += 1
            self._ghost = self._tail[::-1] * np.linspace(1, 0, _FADE, dtype=np.float32)
            self._tail = np.zeros(_FADE, np.float32)
        left = min(len(self._ghost), samples)
        silence[:left], self._ghost = self._ghost[:left], self._ghost[left:]
        self._starved = True
        return silence
