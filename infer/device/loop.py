"""The live loop: microphone samples to frames, frames through a session, its sound to the speaker.

Three threads meet here. PortAudio's two call `capture` and `playout`, which only move samples; one worker calls `work`,
which does the rest and never waits. The microphone is the clock: each 1,920 samples of it are one frame of the model,
and the playout buffer makes up for a speaker whose clock is another one. When no samples come (the device is gone),
frames of silence are fed by the wall clock, for the model must not lose its sense of time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from duplex.backlog import FrameBacklog
from duplex.playout import Piece, PlayoutBuffer, PlayoutConfig
from duplex.session import Session, SessionFrame
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, SAMPLE_RATE
from duplex.vad import level_db
from infer.device.echo import EchoCanceller

ABSENT_SECONDS = 0.5
"""Without a sample for this long the microphone is taken for gone."""
_CAPTURE_LIMIT = 2 * SAMPLE_RATE  # samples that may wait for the worker
_RECENT = 750  # frames that percentiles look back on: a minute
OnFrame = Callable[[np.ndarray, SessionFrame, tuple[Piece, ...]], None]
"""Called with the user's frame, the system's, and what of earlier frames the playback lost."""


@dataclass
class LoopCounters:
    """What went wrong so far."""

    late_frames: int = 0
    """Steps that took longer than a frame lasts."""
    dropped_silent: int = 0
    dropped_frames: int = 0
    capture_overflow: int = 0
    """Samples of the microphone that the worker did not come round to."""
    absent_frames: int = 0
    """Frames of silence fed while there was no microphone."""


@dataclass
class LoopState:
    """What a view shows."""

    seconds: float = 0.0
    user_db: float = -120.0
    system_db: float = -120.0
    user_active: bool = False
    system_active: bool = False
    step_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    """Time of each of the last steps, echo cancellation included."""
    zeros: int = 0
    """Frames of exact zeros since the microphone was opened; it has never given anything else."""

    @property
    def floor(self) -> str:
        """Who speaks: user, system, both or nobody."""
        return {(False, False): "nobody", (True, False): "user", (False, True): "system", (True, True): "both"}[
            self.user_active, self.system_active]

    def percentiles(self) -> tuple[float, float, float]:
        """p50, p95 and p99 of the steps in milliseconds."""
        steps = list(self.step_ms)
        return tuple(float(value) for value in np.percentile(steps, (50, 95, 99))) if steps else (0.0, 0.0, 0.0)


class LiveLoop:
    """Couples a session to devices. `clock` gives seconds; `on_frame` is called by the worker after each step."""

    def __init__(self, session: Session, clock: Callable[[], float], playout: PlayoutConfig | None = None,
                 canceller: EchoCanceller | None = None, on_frame: OnFrame | None = None) -> None:
        self.session, self.canceller, self.on_frame = session, canceller, on_frame
        self.playout_buffer = PlayoutBuffer(playout or PlayoutConfig())
        self.backlog = FrameBacklog()
        self.counters, self.state = LoopCounters(), LoopState()
        self._clock = clock
        self._lock = threading.Lock()
        self._captured: deque[np.ndarray] = deque()
        self._waiting = 0  # samples in it
        self._far: deque[np.ndarray] = deque(maxlen=200)
        self._rest = np.zeros(0, np.float32)
        self._last_capture = clock()
        self._fed_until = self._last_capture
        self._present = False

    def capture(self, pcm: np.ndarray) -> None:
        """Takes samples of the microphone, float32 [S] at 24 kHz. Called by the device."""
        with self._lock:
            self._captured.append(pcm)
            self._waiting += len(pcm)
            while self._waiting > _CAPTURE_LIMIT:
                lost = len(self._captured.popleft())
                self._waiting -= lost
                self.counters.capture_overflow += lost
            self._last_capture = self._clock()

    def playout(self, samples: int) -> np.ndarray:
        """Gives the next samples for the speaker, float32 [samples] at 24 kHz. Called by the device."""
        with self._lock:
            pulled = self.playout_buffer.pull(samples)
            self._far.append(pulled.source)
        return pulled.pcm

    def device_returned(self) -> None:
        """To be called when devices have been opened again: what was waiting is stale."""
        with self._lock:
            self.playout_buffer.restart()
            self._captured.clear()
            self._far.clear()
            self._waiting = 0
            self._last_capture = self._clock()
        self._rest = self._rest[:0]
        self.backlog.clear()
        self.state.zeros = 0

    def work(self) -> int:
        """Does all that is due now and returns the number of frames that were stepped."""
        self._gather()
        stepped = 0
        while (pcm := self.backlog.pop()) is not None:
            self._step(pcm)
            stepped += 1
        return stepped

    def _gather(self) -> None:
        """Makes frames of the samples that came, or of silence when none come any more."""
        with self._lock:
            new, self._waiting = list(self._captured), 0
            self._captured.clear()
            far = list(self._far)
            self._far.clear()
            silent_for = self._clock() - self._last_capture
        if self.canceller is not None:
            for pcm in far:
                self.canceller.far(pcm)
        samples = np.concatenate([self._rest, *new]) if new else self._rest
        whole = len(samples) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = samples[whole:]
        for frame in samples[:whole].reshape(-1, FRAME_SAMPLES):
            self._queue(np.ascontiguousarray(frame))
        now = self._clock()
        if new:
            self._fed_until = now
        elif silent_for > ABSENT_SECONDS:
            # Only whole frames of elapsed time, and not the past when the machine itself was asleep.
            self._fed_until = max(self._fed_until, now - 5 * FRAME_SECONDS)
            while now - self._fed_until >= FRAME_SECONDS and len(self.backlog) < self.backlog.config.keep_frames:
                self._fed_until += FRAME_SECONDS
                self.counters.absent_frames += 1
                self._queue(np.zeros(FRAME_SAMPLES, np.float32))

    def _queue(self, pcm: np.ndarray) -> None:
        before = self.backlog.dropped_silent
        if self.backlog.push(pcm, silent=level_db(pcm) < -55):
            silent = self.backlog.dropped_silent > before
            self.counters.dropped_silent += silent
            self.counters.dropped_frames += not silent
            with self._lock:
                self.playout_buffer.skip(FRAME_SAMPLES)

    def _step(self, pcm: np.ndarray) -> None:
        state, begin = self.state, self._clock()
        state.zeros = state.zeros + 1 if state.zeros >= 0 and not pcm.any() else -1
        if self.canceller is not None:
            pcm = self.canceller.near(pcm)
        frame = self.session.step(np.nan_to_num(np.clip(pcm, -1, 1)).astype(np.float32, copy=False))
        with self._lock:
            lost = self.playout_buffer.flush() if frame.flush else ()
            lost += self.playout_buffer.push(frame.pcm, frame.index)
        # A flush that the policy ordered has its event already.
        self.session.not_heard(lost, truncated=bool(lost) and not frame.flush)
        seconds = self._clock() - begin
        self.counters.late_frames += seconds > FRAME_SECONDS
        state.step_ms.append(1000 * seconds)
        state.seconds = (frame.index + 1) * FRAME_SECONDS
        state.user_db, state.system_db = level_db(pcm), level_db(frame.pcm)
        state.user_active, state.system_active = frame.user_active, frame.system_active
        if self.on_frame:
            self.on_frame(pcm, frame, lost)
