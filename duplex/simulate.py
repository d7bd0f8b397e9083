"""Whole conversations without a clock or a sound card: a recorded user, or two sessions that hear each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from duplex.audio import pad_to_frames
from duplex.policy import HeardLog
from duplex.session import Session, SessionFrame
from duplex.text import Word
from duplex.turns import Event, TurnSummary, summarise
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, samples_to_seconds

Clock = Callable[[], float]
"""Gives the time in seconds from any origin; handed in by whoever wants to know how long steps took."""
OnFrame = Callable[[SessionFrame], None]


@dataclass(frozen=True)
class Dialogue:
    """One finished conversation, from the side of one session."""

    system_pcm: np.ndarray
    """What the session said, float32 [T * 1920] at 24 kHz."""
    user_pcm: np.ndarray
    """What it heard, of the same length."""
    frames: tuple[SessionFrame, ...]
    words: tuple[Word, ...]
    """The system's words from its inner monologue."""
    events: tuple[Event, ...]
    """In order of their times."""
    user_words: tuple[Word, ...] = ()
    """What the user said, where somebody knows it."""
    step_seconds: tuple[float, ...] = ()
    """Time that each step took, where a clock was given."""
    heard: HeardLog = field(default_factory=HeardLog)
    """What of the system's sound did not reach the user."""

    @property
    def seconds(self) -> float:
        return samples_to_seconds(len(self.system_pcm))

    @property
    def stereo(self) -> np.ndarray:
        """float32 [2, S]: the system on the left, the user on the right."""
        return np.stack([self.system_pcm, self.user_pcm])

    @property
    def summary(self) -> TurnSummary:
        return summarise(self.events, self.seconds)


class _Recorder:
    """Steps a session and keeps what comes out."""

    def __init__(self, session: Session, clock: Clock | None, on_frame: OnFrame | None):
        self.session, self.clock, self.on_frame = session, clock, on_frame
        self.heard: list[np.ndarray] = []
        self.frames: list[SessionFrame] = []
        self.step_seconds: list[float] = []

    def step(self, pcm: np.ndarray) -> SessionFrame:
        before = self.clock() if self.clock else 0.0
        frame = self.session.step(pcm)
        if self.clock:
            self.step_seconds.append(self.clock() - before)
        self.heard.append(pcm)
        self.frames.append(frame)
        if self.on_frame:
            self.on_frame(frame)
        return frame

    def dialogue(self, user_words: Sequence[Word] = ()) -> Dialogue:
        words, events = self.session.finish()
        said = [frame.pcm for frame in self.frames]
        told = [*(event for frame in self.frames for event in frame.events), *events]
        return Dialogue(
            system_pcm=np.concatenate(said or [np.zeros(0, np.float32)]),
            user_pcm=np.concatenate(self.heard or [np.zeros(0, np.float32)]),
            frames=tuple(self.frames),
            words=(*(word for frame in self.frames for word in frame.words), *words),
            events=tuple(sorted(told, key=lambda event: event.time)),
            user_words=tuple(user_words),
            step_seconds=tuple(self.step_seconds),
            heard=self.session.heard)


def simulate(session: Session, user_pcm: np.ndarray, *, clock: Clock | None = None,
             on_frame: OnFrame | None = None) -> Dialogue:
    """Plays the recording `user_pcm`, float32 [S] at 24 kHz, to a fresh session; the last frame is zero-padded."""
    recorder = _Recorder(session, clock, on_frame)
    for pcm in pad_to_frames(user_pcm).reshape(-1, FRAME_SAMPLES):
        recorder.step(pcm)
    return recorder.dialogue()


def self_dialogue(left: Session, right: Session, frames: int, *, clock: Clock | None = None,
                  on_frame: OnFrame | None = None) -> Dialogue:
    """Lets two fresh sessions talk for `frames` frames; each hears what the other said one frame before.

    The dialogue is that of `left`: `right` is its user, and the words of `right` are timed as `left` heard them.
    """
    speaker, partner = _Recorder(left, clock, on_frame), _Recorder(right, None, None)
    said = answered = np.zeros(FRAME_SAMPLES, dtype=np.float32)
    for _ in range(frames):
        said, answered = speaker.step(answered).pcm, partner.step(said).pcm
    heard = [replace(word, start=word.start + FRAME_SECONDS, end=word.end + FRAME_SECONDS)
             for word in partner.dialogue().words]
    return speaker.dialogue(heard)
