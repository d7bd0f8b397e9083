"""One conversation without its model: activity, turns, words, policy, and what was heard of it.

`duplex.session.Session` keeps one of these beside one row of the model; whoever steps many rows at once keeps one for
each. A frame is `hear` (the user's sound and codes, before the model's step: says how to steer it) and then `say`
(tokens and sound that the step gave: makes the frame of the session).
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass

import numpy as np
import torch

from duplex.playout import Piece
from duplex.policy import DEFAULT_POLICY, HeardLog, InterruptionPolicy, PolicyConfig, Steering
from duplex.streams import UNGENERATED, StreamLayout
from duplex.text import RowReader, TextTokenizer, Word
from duplex.turns import DEFAULT_TURNS, Event, EventKind, TurnConfig, TurnTracker
from duplex.units import FRAME_RATE, FRAME_SAMPLES, frames_to_seconds
from duplex.vad import DEFAULT_VAD, EnergyVad, VadConfig


@dataclass(frozen=True)
class SessionFrame:
    """What one step gives. Times are in seconds since time zero, see the alignment note in `duplex.session`."""

    index: int
    """Number of the frame, counted from time zero."""
    pcm: np.ndarray
    """The system's sound as it is to be heard, float32 [1920] at 24 kHz."""
    text: str
    """Text that goes with this frame: whole characters, with a space before each word; mostly empty."""
    words: tuple[Word, ...]
    """Words that ended with this frame."""
    events: tuple[Event, ...]
    """Events that became known with this frame."""
    text_token: int
    """Text token of this frame, UNGENERATED in the first frames that are silent by delay."""
    system_codes: np.ndarray
    """The system's codes, int64 [n_system], UNGENERATED likewise."""
    user_codes: np.ndarray
    """The user's codes as the model heard them, int64 [n_user]."""
    text_ahead: int
    """Text token that the model has just chosen; its sound comes out after the acoustic delay."""
    system_active: bool
    """Is there sound in `pcm`?"""
    user_active: bool
    """Is there sound in the user's frame?"""
    muted: bool = False
    """The policy has silenced this frame: `pcm` is not what the model said."""
    flush: bool = False
    """What waits to be played from earlier frames must not be heard any more."""

    @property
    def time(self) -> float:
        return frames_to_seconds(self.index)


class Conversation:
    """State of one conversation beside the model. A value: `clone` gives an independent copy."""

    def __init__(self, tokenizer: TextTokenizer, layout: StreamLayout, delay: int, turns: TurnConfig = DEFAULT_TURNS,
                 vad: VadConfig = DEFAULT_VAD, policy: PolicyConfig = DEFAULT_POLICY) -> None:
        self.index = 0
        """Number of the frame that comes next."""
        self.heard = HeardLog()
        self.policy = InterruptionPolicy(policy, vad)
        self._layout, self._delay = layout, delay
        self._reader = RowReader(tokenizer, frame=delay)
        self._system_vad, self._user_vad = EnergyVad(vad), EnergyVad(vad)
        self._turns = TurnTracker(turns)
        self._steering = Steering()
        self._told: list[Event] = []
        self._truncated = -100  # frame in which a cut was last told

    def hear(self, pcm: np.ndarray, codes: np.ndarray) -> Steering:
        """Takes the user's frame, float32 [1920] and int64 [n_user]; says how to steer the model's step."""
        self._steering = self.policy.hear(pcm, codes)
        return self._steering

    def say(self, tokens: np.ndarray, text_ahead: int, user_codes: np.ndarray, user_pcm: np.ndarray,
            system_pcm: np.ndarray) -> SessionFrame:
        """Takes what the step gave: tokens [1 + n_system] and sound [1920]. The frame that `hear` began is complete."""
        if self.index < self._delay:  # what comes out now was begun before time zero
            tokens, system_pcm = np.full_like(tokens, UNGENERATED), np.zeros(FRAME_SAMPLES, np.float32)
            text, words = "", ()
        else:
            text, words = self._reader.push(int(tokens[self._layout.text_row]))
        steering = self._steering
        system_active, user_active = self._system_vad.push(system_pcm), self._user_vad.push(user_pcm)
        self.policy.say(system_active)
        if steering.mute:
            self.heard.lose(self.index)
            system_pcm, system_active = np.zeros(FRAME_SAMPLES, np.float32), False
            if steering.flush:
                self._told.append(Event(EventKind.TRUNCATED, frames_to_seconds(self.index), frames_to_seconds(self.index + 1)))
        events = tuple(sorted((*self._told, *self._turns.push(system_active, user_active)), key=lambda event: event.time))
        self._told = []
        frame = SessionFrame(
            index=self.index, pcm=system_pcm, text=text, words=words, events=events,
            text_token=int(tokens[self._layout.text_row]), system_codes=tokens[self._layout.system_rows],
            user_codes=user_codes, text_ahead=text_ahead, system_active=system_active, user_active=user_active,
            muted=steering.mute, flush=steering.flush)
        self.index += 1
        return frame

    def not_heard(self, pieces: tuple[Piece, ...], truncated: bool = False) -> None:
        """The playback reports sound that it flushed or dropped; the tags of the pieces are numbers of frames.

        `truncated` makes an event of it, for a cut that the policy did not order: at most one a second, and none of
        silence.
        """
        lost = [piece for piece in pieces if not piece.heard and piece.tag >= 0]
        for piece in lost:
            self.heard.lose(piece.tag, piece.samples / FRAME_SAMPLES)
        if lost and truncated and self.policy.system_spoke and self.index - self._truncated > FRAME_RATE:
            self._truncated = self.index
            self._told.append(Event(EventKind.TRUNCATED, frames_to_seconds(lost[0].tag), frames_to_seconds(self.index + 1)))

    def finish(self) -> tuple[tuple[Word, ...], tuple[Event, ...]]:
        """Ends the conversation: the word and the events that are still open. Call it once, after the last step."""
        return self._reader.flush(), (*self._told, *self._turns.flush())

    def clone(self) -> Conversation:
        """An independent conversation that continues from this moment."""
        twin = copy.copy(self)
        twin.heard, twin.policy, twin._told = copy.deepcopy(self.heard), self.policy.clone(), list(self._told)
        twin._reader, twin._turns = self._reader.clone(), self._turns.clone()
        twin._system_vad, twin._user_vad = copy.copy(self._system_vad), copy.copy(self._user_vad)
        return twin

    def to_dict(self) -> dict[str, object]:
        """Everything that a stored session needs, as plain values."""
        return {
            "index": self.index, "reader": self._reader.to_dict(), "turns": asdict(self._turns.config),
            "tracker": self._turns.to_dict(), "vad": asdict(self._user_vad.config), "system_vad": self._system_vad.to_dict(),
            "user_vad": self._user_vad.to_dict(), "policy": asdict(self.policy.config), "steering": self.policy.to_dict(),
            "lost": sorted(self.heard.lost.items())}

    @classmethod
    def from_dict(cls, values: dict, tokenizer: TextTokenizer, layout: StreamLayout, delay: int) -> Conversation:
        """The conversation whose `to_dict` gave `values`. Raises KeyError, TypeError or ValueError for other values."""
        vad, turns = VadConfig(**values["vad"]), TurnConfig(**values["turns"])
        policy = PolicyConfig(**values["policy"])
        conversation = cls(tokenizer, layout, delay, turns, vad, policy)
        conversation.index = values["index"]
        conversation.heard = HeardLog({int(frame): share for frame, share in values["lost"]})
        conversation.policy = InterruptionPolicy.from_dict(values["steering"], policy, vad)
        conversation._reader = RowReader.from_dict(tokenizer, values["reader"])
        conversation._turns = TurnTracker.from_dict(values["tracker"], turns)
        conversation._system_vad = EnergyVad.from_dict(values["system_vad"], vad)
        conversation._user_vad = EnergyVad.from_dict(values["user_vad"], vad)
        return conversation


def bias_of(steerings: list[Steering], vocabulary: int, pad: int, epad: int) -> torch.Tensor | None:
    """Text bias float32 [B, vocabulary] of the rows of one step; None where no row has any."""
    if not any(steering.pad_bias for steering in steerings):
        return None
    bias_BV = torch.zeros(len(steerings), vocabulary)
    for row, steering in enumerate(steerings):
        bias_BV[row, pad] += steering.pad_bias
        bias_BV[row, epad] -= steering.pad_bias
    return bias_BV
