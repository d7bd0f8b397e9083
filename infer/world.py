"""What surrounds one simulated conversation: the user's ears and mouth, devices, room, network, and their clocks.

A world gives the frames that reach the model in one slot of 80 ms and takes what the model answers. In a perfect one
frame i of both sides is the same 80 ms, as in `duplex.simulate`. In any other, time runs in steps of 10 ms: the user's
sound passes room, microphone, echo canceller and network; the answer passes network, playout buffer, loudspeaker and
room; and times in the report are those of the user's room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from duplex.conversation import Conversation, SessionFrame
from duplex.playout import NETWORK, PlayoutBuffer, PlayoutConfig
from duplex.policy import HeardLog
from duplex.simulate import Dialogue
from duplex.text import Word
from duplex.turns import Event, EventKind, TurnTracker
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, frames_to_seconds
from duplex.vad import EnergyVad
from infer.conditions import TICK, TICK_MS, Conditions, EchoPath, Link, Loudspeaker
from infer.device.echo import EchoCanceller
from infer.user import User, words_of

_TICKS = FRAME_SAMPLES // TICK
_SILENCE = np.zeros(FRAME_SAMPLES, np.float32)


@dataclass(frozen=True)
class Delivery:
    """How the sound arrived: a line of the report."""

    underrun_share: float
    """Part of the time in which the loudspeaker had nothing to play."""
    playout_delay_ms: float
    """Mean delay that the playout buffer added to a punctual packet."""
    dropped_ms: float
    """Sound dropped by the playout buffer."""
    echo_heard: int
    """Times that the model's side took sound for the user's while the user was silent."""
    echo_yields: int
    """Times that the system fell silent for it."""
    system_turns: int
    """Stretches of speech of the system, to compare with."""


class PerfectWorld:
    """Nothing lies between user and model."""

    delivery: Delivery | None = None

    def __init__(self, user: User) -> None:
        self.user = user
        self._heard = [_SILENCE]
        self._spoken: list[np.ndarray] = []
        self._frames: list[SessionFrame] = []

    @property
    def over(self) -> bool:
        return self.user.over

    def slot(self) -> list[np.ndarray]:
        """The frames that reach the model in the next 80 ms."""
        self._spoken.append(self.user.speak(self._heard[-1]))
        return [self._spoken[-1]]

    def answer(self, frames: Sequence[SessionFrame], talk: Conversation) -> None:
        """What the model made of them."""
        self._frames += frames
        self._heard += [frame.pcm for frame in frames]

    def dialogue(self, talk: Conversation, step_seconds: Sequence[float] = ()) -> Dialogue:
        """The finished conversation."""
        words, events = talk.finish()
        told = [*(event for frame in self._frames for event in frame.events), *events]
        return Dialogue(
            system_pcm=_joined(self._heard[1:]), user_pcm=_joined(self._spoken), frames=tuple(self._frames),
            words=(*(word for frame in self._frames for word in frame.words), *words),
            events=tuple(sorted(told, key=lambda event: event.time)), user_words=words_of(self.user.said),
            step_seconds=tuple(step_seconds), heard=talk.heard)


class ImperfectWorld:
    """A world with the given conditions; the same seed gives the same one."""

    def __init__(self, user: User, conditions: Conditions, seed: int, playout: PlayoutConfig | None = None) -> None:
        self.user, self.conditions = user, conditions
        self._up: Link[np.ndarray] = Link(conditions, 2 * seed + 1)
        self._down: Link[SessionFrame] = Link(conditions, 2 * seed + 2)
        self._playout = PlayoutBuffer(playout or (NETWORK if conditions.delay_ms else PlayoutConfig()))
        self._loudspeaker = Loudspeaker(conditions.drift_ppm)
        self._echo = EchoPath(conditions, seed) if conditions.echo_db is not None else None
        self._canceller = EchoCanceller() if self._echo is not None and conditions.cancel else None
        self._noise = np.random.default_rng(seed + 99)
        self._tick = 0
        self._air: list[np.ndarray] = []
        self._spoken: list[np.ndarray] = []
        self._heard = _SILENCE
        self._lost: list = []
        self._flushes: list[float] = []
        self._first_played: dict[int, float] = {}
        self._frames: list[SessionFrame] = []
        self._delays: list[float] = []
        self._false_hearings, self._quiet = 0, 100  # frames since the user's last sound
        self._ended_at: int | None = None

    @property
    def over(self) -> bool:
        """Has the user ended, and has what was under way arrived?"""
        if self.user.over and self._ended_at is None:
            self._ended_at = self._tick
        return self._ended_at is not None and self._tick >= self._ended_at + 50

    @property
    def delivery(self) -> Delivery:
        counters = self._playout.counters
        told = [event for frame in self._frames for event in frame.events]
        yields = [event for event in told if event.kind is EventKind.YIELDED]
        turns = sum(event.kind is EventKind.SYSTEM_START for event in told)
        return Delivery(counters.underrun / max(counters.played, 1), float(np.mean(self._delays or [0.0])),
                        counters.dropped / 24, self._false_hearings, sum(map(self._was_for_nobody, yields)), turns)

    def _was_for_nobody(self, event: Event) -> bool:
        """Was the user silent all the time in which a yield could have been meant for them?"""
        first = int((event.time - (event.seconds or 0)) / FRAME_SECONDS) - 12
        return not any(spoken.any() for spoken in self._spoken[max(first, 0) : int(event.time / FRAME_SECONDS) + 6])

    def slot(self) -> list[np.ndarray]:
        spoken = self.user.speak(self._heard)
        heard, microphone, due = [], [], []
        for tick in range(_TICKS):
            self._tick += 1
            now = self._tick * TICK_MS
            for frame in self._down.arrived(now):
                if frame.flush:
                    self._lost += self._playout.flush()
                    self._flushes.append(now / 1000)
                self._lost += self._playout.push(frame.pcm, frame.index)
            air = self._loudspeaker.tick(self._pull)
            heard.append(air)
            mouth = spoken[tick * TICK : (tick + 1) * TICK]
            microphone.append(self._microphone(mouth, air))
            due += self._up.arrived(now)  # what a stall held up is worked off back to back
        self._heard = _joined(heard)
        self._air.append(self._heard)
        self._spoken.append(spoken)
        self._delays.append(self._playout.delay_ms)
        captured = _joined(microphone)
        if self._canceller is not None:
            captured = self._canceller.near(captured)
        self._up.send(captured, self._tick * TICK_MS)
        return due

    def answer(self, frames: Sequence[SessionFrame], talk: Conversation) -> None:
        for frame in frames:
            self._down.send(frame, self._tick * TICK_MS)
        talk.not_heard(tuple(self._lost))
        self._lost = []
        self._frames += frames
        # The user's voice is still under way for a while after the mouth has closed.
        self._quiet = 0 if self._spoken[-1].any() else self._quiet + 1
        if self._quiet > 12:
            self._false_hearings += sum(event.kind is EventKind.USER_START for frame in frames for event in frame.events)

    def dialogue(self, talk: Conversation, step_seconds: Sequence[float] = ()) -> Dialogue:
        """The conversation as the user lived through it: all times are those of the room."""
        words, _ = talk.finish()
        ears, mouth, tracker = EnergyVad(), EnergyVad(), TurnTracker()
        events: list[Event] = [Event(EventKind.TRUNCATED, time, time) for time in self._flushes]
        for air, spoken in zip(self._air, self._spoken, strict=True):
            events += tracker.push(ears.push(air), mouth.push(spoken))
        events += tracker.flush()
        said = [*(word for frame in self._frames for word in frame.words), *words]
        heard = HeardLog()
        retimed = [self._in_the_room(word) for word in said]
        for word, there in zip(said, retimed, strict=True):
            if not talk.heard.heard(word.start, word.end):
                for frame in range(int(there.start / FRAME_SECONDS), int(there.end / FRAME_SECONDS) + 1):
                    heard.lose(frame)
        return Dialogue(
            system_pcm=_joined(self._air), user_pcm=_joined(self._spoken), frames=tuple(self._frames), words=tuple(retimed),
            events=tuple(sorted(events, key=lambda event: event.time)), user_words=words_of(self.user.said),
            step_seconds=tuple(step_seconds), heard=heard)

    def _pull(self, samples: int) -> np.ndarray:
        pulled = self._playout.pull(samples)
        if self._canceller is not None:
            self._canceller.far(pulled.source)
        for piece in pulled.pieces:
            self._first_played.setdefault(piece.tag, self._tick * TICK_MS / 1000)
        return pulled.pcm

    def _microphone(self, mouth: np.ndarray, air: np.ndarray) -> np.ndarray:
        sound = mouth
        if self._echo is not None:
            sound = sound + self._echo.push(air)
        if self.conditions.noise_db is not None:
            sound = sound + self._noise.normal(0, 10 ** (self.conditions.noise_db / 20), TICK)
        return np.clip(sound, -1, 1).astype(np.float32)

    def _in_the_room(self, word: Word) -> Word:
        """The word at the time at which its first frame was played."""
        frame = int(word.start / FRAME_SECONDS + 1e-3)
        known = [number for number in self._first_played if number <= frame]
        shift = self._first_played[max(known)] - frames_to_seconds(max(known)) if known else 0.0
        return Word(word.text, word.start + shift, word.end + shift)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


World = PerfectWorld | ImperfectWorld
