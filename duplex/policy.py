"""What the loop does when the user speaks over the system: three policies that can be switched and measured.

`learned` leaves it to the model. `guarded` helps the model: once somebody has truly barged in, it biases the text
towards PAD, more with every frame, and at last lets the system's voice be codes of silence, so that the model
itself has lived through its own falling silent. `forced` leaves the model alone and cuts what is heard: the playback is
flushed and stays silent until the model has ended its turn. Under each of them the model is fed every frame.

A true barge-in is user speech that began over the system's, has lasted longer than an acknowledgement, and is a voice:
its level rises above the noise (duplex.vad, here in steps of 10 ms) and its codes are not those of the user's silence.
Pure and causal, like `duplex.turns`.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from duplex.errors import ConfigError
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, SAMPLE_RATE, seconds_to_frames
from duplex.vad import DEFAULT_VAD, EnergyVad, VadConfig

LEARNED, GUARDED, FORCED = POLICIES = ("learned", "guarded", "forced")
ACKNOWLEDGEMENT_SECONDS = 0.7
"""User speech up to this length never counts as a barge-in, whatever the settings."""
_HOPS = 8  # steps of 10 ms in a frame
_HOP = FRAME_SAMPLES // _HOPS
_HOP_SECONDS = _HOP / SAMPLE_RATE


@dataclass(frozen=True)
class PolicyConfig:
    """Which policy, and how soon and how hard it acts."""

    kind: str = LEARNED
    after_seconds: float = 0.8
    """Length of user speech over the system that makes a barge-in. A click or breath of 30 ms is no speech, a gap of
    less than 0.24 s does not end it."""
    pad_bias: float = 4.0
    """Guarded: added to the logit of PAD (and taken from EPAD's) in the first frame, and again in each further one ..."""
    most_bias: float = 40.0
    """... up to this."""
    silence_seconds: float = 0.4
    """Guarded: so long after it began to act, the system's codes become those of silence."""
    let_go_seconds: float = 2.0
    """Forced: the system is heard again this long after the user stopped, even if it never paused."""

    def __post_init__(self) -> None:
        if self.kind not in POLICIES:
            raise ConfigError(f"policy {self.kind!r}: no such policy; use one of {', '.join(POLICIES)}")
        if not ACKNOWLEDGEMENT_SECONDS < self.after_seconds <= 10:
            raise ConfigError(f"after_seconds: must lie above {ACKNOWLEDGEMENT_SECONDS:g}, the longest acknowledgement, "
                              f"and be at most 10, not {self.after_seconds:g}")
        for name in ("pad_bias", "most_bias", "silence_seconds", "let_go_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: must be a number from 0 up, not {getattr(self, name)}")


DEFAULT_POLICY = PolicyConfig()


@dataclass(frozen=True)
class Steering:
    """What the loop is to do in one frame."""

    pad_bias: float = 0.0
    """To be added to PAD's logit and taken from EPAD's."""
    silent_codes: bool = False
    """The system's codes of this frame are to be those of silence."""
    mute: bool = False
    """This frame is not to be heard."""
    flush: bool = False
    """Nor is what waits to be played."""


_NOTHING = Steering()


@dataclass
class _Speech:
    """The user's stretch of speech in steps of 10 ms."""

    step: int = 0
    first: int = -1  # of the stretch; -1: silent
    end: int = -1  # after the last active step
    run: int = 0
    voiced: int = 0  # frames whose codes are not those of silence
    frames: int = 0
    over_system: bool = False  # began while the system was speaking

    @property
    def seconds(self) -> float:
        return (self.end - self.first) * _HOP_SECONDS if self.first >= 0 else 0.0


class InterruptionPolicy:
    """The policy of one conversation. Call `hear` with each frame of the user before the model's step, `say` after it."""

    _SPEECH_STEPS = 3
    _PAUSE_STEPS = 24
    _PAUSE_FRAMES = 3

    def __init__(self, config: PolicyConfig = DEFAULT_POLICY, vad: VadConfig = DEFAULT_VAD) -> None:
        self.config = config
        self._vad = EnergyVad(replace(vad, floor_rise_db=vad.floor_rise_db / _HOPS))
        self._speech = _Speech()
        self._quiet: deque[tuple[int, ...]] = deque(maxlen=50)  # codes of the user's silent frames
        self._system_pause = self._PAUSE_FRAMES  # frames since the system's own sound
        self._acting = 0  # frames since the policy began to act; 0: it does not
        self._user_pause = 0
        self._done = False  # this stretch of speech has been acted upon

    @property
    def barge_in_seconds(self) -> float:
        """Length of the user's present speech over the system; 0 when there is none."""
        speech = self._speech
        return speech.seconds if speech.over_system else 0.0

    @property
    def system_spoke(self) -> bool:
        """Did the model make sound in one of the last frames?"""
        return self._system_pause < self._PAUSE_FRAMES

    def hear(self, pcm: np.ndarray, codes: Sequence[int]) -> Steering:
        """Takes the user's frame, float32 [1920] and its codes; says what to do in this frame."""
        self._listen(pcm, tuple(int(code) for code in codes))
        if self.config.kind == LEARNED:
            return _NOTHING
        begins = not self._acting and not self._done and self._is_barge_in()
        if begins:
            self._acting = 1
        elif self._acting:
            self._acting += 1
            if self._is_over():
                self._acting, self._done = 0, True
        if not self._acting:
            return _NOTHING
        if self.config.kind == FORCED:
            return Steering(mute=True, flush=begins)
        since = (self._acting - 1) * FRAME_SECONDS
        return Steering(pad_bias=min(self._acting * self.config.pad_bias, self.config.most_bias),
                        silent_codes=since >= self.config.silence_seconds)

    def say(self, active: bool) -> None:
        """Takes whether the model made sound in this frame, heard or not."""
        self._system_pause = 0 if active else self._system_pause + 1

    def clone(self) -> InterruptionPolicy:
        return copy.deepcopy(self)

    def to_dict(self) -> dict[str, object]:
        """Everything but the configuration, as plain values."""
        return {"vad": self._vad.to_dict(), "speech": vars(self._speech), "quiet": [list(codes) for codes in self._quiet],
                "system_pause": self._system_pause, "acting": self._acting, "user_pause": self._user_pause, "done": self._done}

    @classmethod
    def from_dict(cls, values: dict, config: PolicyConfig = DEFAULT_POLICY, vad: VadConfig = DEFAULT_VAD) -> InterruptionPolicy:
        policy = cls(config, vad)
        policy._vad = EnergyVad.from_dict(values["vad"], policy._vad.config)
        policy._speech = _Speech(**values["speech"])
        policy._quiet.extend(tuple(codes) for codes in values["quiet"])
        policy._system_pause, policy._acting = values["system_pause"], values["acting"]
        policy._user_pause, policy._done = values["user_pause"], values["done"]
        return policy

    def _listen(self, pcm: np.ndarray, codes: tuple[int, ...]) -> None:
        speech, sounded = self._speech, False
        for step in pcm.reshape(_HOPS, _HOP):
            active = self._vad.push(step)
            sounded |= active
            speech.run = speech.run + 1 if active else 0
            speech.step += 1
            if speech.first >= 0:
                if active:
                    speech.end = speech.step
                elif speech.step - speech.end >= self._PAUSE_STEPS:
                    self._speech = speech = _Speech(step=speech.step)
                    self._done = False
            elif speech.run >= self._SPEECH_STEPS:
                speech.first, speech.end = speech.step - speech.run, speech.step
                speech.over_system = self.system_spoke
                if self._quiet:
                    self._quiet.pop()  # the frame before may hold the onset, too short yet for the detector
        self._user_pause = self._user_pause + 1 if speech.first < 0 else 0
        if speech.first >= 0 and sounded:
            speech.frames += 1
            speech.voiced += not self._sounds_quiet(codes)
        elif not sounded:
            self._quiet.append(codes)

    def _sounds_quiet(self, codes: tuple[int, ...]) -> bool:
        """Are most codes among those that the same books gave for the user's silence?"""
        if not self._quiet:
            return False
        books = [Counter(book) for book in zip(*self._quiet, strict=True)]
        return sum(code in book for code, book in zip(codes, books, strict=True)) >= 0.75 * len(codes)

    def _is_barge_in(self) -> bool:
        speech = self._speech
        return (speech.over_system and speech.seconds > self.config.after_seconds - 1e-9
                and self.system_spoke and speech.voiced >= 0.5 * speech.frames)

    def _is_over(self) -> bool:
        if self.config.kind == FORCED:
            waited = self._user_pause >= seconds_to_frames(self.config.let_go_seconds)
            return self._system_pause >= self._PAUSE_FRAMES or waited
        return self._speech.first < 0  # the user has stopped: the floor is free


@dataclass
class HeardLog:
    """Which sound of the system never reached the user, so that a transcript can say what was heard."""

    lost: dict[int, float] = field(default_factory=dict)
    """Share of each frame that was not heard, by its number; frames that are not here were heard in full."""

    def lose(self, frame: int, share: float = 1.0) -> None:
        """Adds a part of a frame that was muted, flushed or dropped."""
        if frame >= 0:
            self.lost[frame] = min(1.0, self.lost.get(frame, 0.0) + share)

    def heard(self, start: float, end: float) -> bool:
        """Was at least half of what lies between two times (seconds) heard?"""
        first, last = int(start / FRAME_SECONDS + 1e-3), max(seconds_to_frames(end), int(start / FRAME_SECONDS + 1e-3) + 1)
        share = [self.lost.get(frame, 0.0) for frame in range(first, last)]
        return sum(share) <= 0.5 * len(share)

    @property
    def seconds(self) -> float:
        """All that was lost."""
        return sum(self.lost.values()) * FRAME_SECONDS
