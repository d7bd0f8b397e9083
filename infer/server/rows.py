"""Many conversations as the rows of one batch: what `duplex.session.Session` does for one, for a fixed number of slots.

Every step takes one frame of some of the rows; the others keep their state untouched, so that each row goes at the
pace of its own client. The batch always has its full width: with the same width a seeded row gives the same frames bit
for bit whichever slot it has and whoever its neighbours are. No clock, no threads, no network in here.

A row that starts with a prompt first lives through the prompt's frames, one per step, beside neighbours that converse.
Shapes: B slots, K codebooks of the system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from duplex.audio import pad_to_frames
from duplex.checkpoint import LoadedModel
from duplex.config import SamplingConfig
from duplex.conversation import Conversation, SessionFrame, bias_of
from duplex.engine import FrameOut
from duplex.errors import InputError
from duplex.policy import DEFAULT_POLICY, PolicyConfig, Steering
from duplex.session import PROMPT_GAP_FRAMES, Prompt, Session, silent_codes
from duplex.text import Word
from duplex.turns import DEFAULT_TURNS, Event, TurnConfig
from duplex.units import FRAME_SAMPLES, frames_to_samples, samples_to_frames
from duplex.vad import DEFAULT_VAD, VadConfig

MAX_PERSONA_TOKENS = 400
"""Longer texts are refused: each token is one frame that the model lives through before it can listen."""


@dataclass
class _Row:
    """What belongs to one running conversation beside its rows of the tensors."""

    talk: Conversation
    forced_text: list[int] = field(default_factory=list)
    forced_codes: torch.Tensor | None = None  # int64 [K, T]
    lived: int = 0  # frames of the prompt that are over

    @property
    def preparing(self) -> bool:
        return self.lived < len(self.forced_text)


class BatchedSessions:
    """A fixed number of slots, each empty or holding one conversation.

    `voice` is a recording, float32 [S] at 24 kHz, that every conversation's system is made to have said before time
    zero; `policy` what happens when a user barges in. Raises ConfigError for a model whose parts do not converse.
    """

    def __init__(self, model: LoadedModel, slots: int, voice: np.ndarray | None = None, turns: TurnConfig = DEFAULT_TURNS,
                 vad: VadConfig = DEFAULT_VAD, policy: PolicyConfig = DEFAULT_POLICY):
        probe = Session(model)  # checks that the parts fit together
        self.slots, self.layout, self.delay = slots, probe.layout, probe.delay
        self.sampling, self.name = model.sampling, model.folder.name
        self._model, self._turns, self._vad, self._policy = model, turns, vad, policy
        self._engine = model.engine()
        self._state = self._engine.init_state(slots, [0] * slots)
        self._codec = model.codec.stream(slots)
        self._rows: list[_Row | None] = [None] * slots
        self._heat = torch.zeros(slots, 2, device=self._engine.device)
        self._plain_heat = _heat_of(model.sampling)
        self._special = [False] * slots  # rows whose temperatures are not the model's
        self._opening_KT = self._opening(voice)
        self._silent_K = silent_codes(model, self._engine.device)

    def start(self, slot: int, seed: int = 0, text_temperature: float | None = None, audio_temperature: float | None = None,
              persona: str | None = None, policy: str | None = None) -> None:
        """Begins a conversation in an empty slot; temperatures None are the model's, `policy` None the server's.

        Raises InputError for a persona that is too long, and then leaves the slot empty.
        """
        tokens = self._forced_tokens(persona)
        mask = self._mask([slot])
        self._state.reset_rows(mask, [seed] * self.slots)
        self._codec.reset_rows(mask)
        text, audio = self._plain_heat
        heat = (text if text_temperature is None else text_temperature,
                audio if audio_temperature is None else audio_temperature)
        self._heat[slot] = torch.tensor(heat)
        self._special[slot] = heat != self._plain_heat
        rule = self._policy if policy is None else replace(self._policy, kind=policy)
        talk = Conversation(self._model.tokenizer, self.layout, self.delay, self._turns, self._vad, rule)
        self._rows[slot] = _Row(talk, tokens, self._opening_KT[:, : len(tokens)])

    def check_persona(self, persona: str | None) -> None:
        """Raises InputError when `start` would refuse it."""
        self._forced_tokens(persona)

    def stop(self, slot: int) -> tuple[tuple[Word, ...], tuple[Event, ...]]:
        """Ends the conversation of a slot: the word and the events that were still open. An empty slot has none."""
        row, self._rows[slot] = self._rows[slot], None
        self._special[slot] = False
        return row.talk.finish() if row is not None and not row.preparing else ((), ())

    def preparing(self, slot: int) -> bool:
        """Is the row living through its prompt? Such a row takes part in every step without a frame of the user."""
        row = self._rows[slot]
        return row is not None and row.preparing

    def step(self, frames: Mapping[int, np.ndarray]) -> dict[int, SessionFrame | Exception]:
        """One frame of the rows in `frames` (slot: float32 [1920] at 24 kHz) and of the rows that live through a prompt.

        Gives the system's frame of each row in `frames`, or the exception that its handling ended in, which concerns
        this row alone. Raises InputError for a frame of another type or shape, or for a slot without a conversation
        that could take it, before anything has changed.
        """
        for slot, pcm in frames.items():
            if not isinstance(pcm, np.ndarray) or pcm.dtype != np.float32 or pcm.shape != (FRAME_SAMPLES,):
                raise InputError(f"slot {slot}: a user frame must be a numpy array float32 [{FRAME_SAMPLES}] at 24 kHz")
            if not 0 <= slot < self.slots or self._rows[slot] is None or self.preparing(slot):
                raise InputError(f"slot {slot}: no conversation there takes a frame; start one")
        prompted = [slot for slot in range(self.slots) if self.preparing(slot)]
        if not frames and not prompted:
            return {}
        results: dict[int, SessionFrame | Exception] = {}
        out, user_BK, pcm_BS = self._advance(frames, prompted, results)
        tokens_BQ, text_B = out.tokens.cpu().numpy(), out.text_now.cpu().numpy()
        for slot in prompted:
            self._row(slot).lived += 1
        for slot, user_pcm in frames.items():
            if slot not in results:
                results[slot] = _attempt(self._row(slot).talk.say, tokens_BQ[slot], int(text_B[slot]), user_BK[slot], user_pcm,
                                         pcm_BS[slot].copy())
        return results

    def _advance(self, frames: Mapping[int, np.ndarray], prompted: list[int],
                 failed: dict[int, SessionFrame | Exception]) -> tuple[FrameOut, np.ndarray, np.ndarray]:
        """One frame through codec, model and codec: what came out, the user's codes [B, n_user], the sound [B, 1920]."""
        device, layout, tokenizer = self._engine.device, self.layout, self._model.tokenizer
        active = self._mask([*frames, *prompted])
        pcm_BS = np.zeros((self.slots, FRAME_SAMPLES), dtype=np.float32)
        for slot, pcm in frames.items():
            pcm_BS[slot] = pcm
        codes_BK = self._codec.encode_frame(torch.from_numpy(pcm_BS)[:, None].to(device), active)[:, : layout.n_user]
        user_BK = codes_BK.cpu().numpy()
        steering = [Steering()] * self.slots
        for slot, pcm in frames.items():
            heard = _attempt(self._row(slot).talk.hear, pcm, user_BK[slot])
            if isinstance(heard, Exception):
                failed[slot] = heard
            else:
                steering[slot] = heard
        bias_BV = bias_of(steering, tokenizer.vocab_size, tokenizer.pad_id, tokenizer.epad_id)
        forced = self._forced(prompted, [slot for slot in frames if steering[slot].silent_codes])
        self._state, out = self._engine.step(
            self._state, codes_BK, active=active, text_bias=None if bias_BV is None else bias_BV.to(device), **forced)
        if bool(out.ready.any()):
            codes_BK = out.tokens[:, layout.system_rows].clamp(min=0)  # rows that are not ready hold no codes
            system_BS = self._codec.decode_frame(codes_BK, out.ready)[:, 0].float().cpu().numpy()
        else:
            system_BS = np.zeros_like(pcm_BS)
        return out, user_BK, system_BS

    def _forced(self, prompted: list[int], silenced: list[int]) -> dict[str, torch.Tensor]:
        """What the step is told about rows with a prompt, rows that a policy silences, and rows with temperatures."""
        device, told = self._engine.device, {}
        if prompted or silenced:
            system_BK = torch.full((self.slots, self.layout.n_system), -1, dtype=torch.long, device=device)
            text_B = torch.full((self.slots,), -1, dtype=torch.long, device=device)
            for slot in prompted:
                row = self._row(slot)
                text_B[slot] = row.forced_text[row.lived]
                system_BK[slot] = row.forced_codes[:, row.lived].to(device)  # type: ignore[index]
            for slot in silenced:
                system_BK[slot] = self._silent_K
            told |= {"forced_system": system_BK, "forced_text": text_B}
        if any(self._special):
            told["temperatures"] = self._heat
        return told

    def _row(self, slot: int) -> _Row:
        row = self._rows[slot]
        assert row is not None
        return row

    def _opening(self, voice: np.ndarray | None) -> torch.Tensor:
        """Codes [K, T] of the voice followed by as much silence as the longest persona needs."""
        self._voice_frames = 0
        if voice is not None:
            voice = pad_to_frames(np.ascontiguousarray(voice, dtype=np.float32))
            self._voice_frames = samples_to_frames(len(voice)) + PROMPT_GAP_FRAMES
        total = self._voice_frames + MAX_PERSONA_TOKENS + PROMPT_GAP_FRAMES
        pcm = np.zeros(frames_to_samples(total), dtype=np.float32)
        if voice is not None:
            pcm[: len(voice)] = voice
        # The codec is causal, so the codes of a shorter prompt are the first ones of the longest.
        return self._model.codec.encode(torch.from_numpy(pcm)[None, None].to(self._engine.device))[0]

    def _forced_tokens(self, persona: str | None) -> list[int]:
        tokenizer = self._model.tokenizer
        tokens = [tokenizer.pad_id] * self._voice_frames
        if persona:
            text = tokenizer.encode(persona)
            if len(text) > MAX_PERSONA_TOKENS:
                raise InputError(f"the persona has {len(text)} tokens, more than the {MAX_PERSONA_TOKENS} allowed; shorten it")
            tokens += text + [tokenizer.pad_id] * PROMPT_GAP_FRAMES
        return tokens

    def _mask(self, slots: list[int]) -> torch.Tensor:
        mask = torch.zeros(self.slots, dtype=torch.bool)
        mask[slots] = True
        return mask.to(self._engine.device)


def prompt_of(persona: str | None, voice: np.ndarray | None = None) -> Prompt | None:
    """The `Session` prompt that equals what a row with this persona and voice lives through."""
    return Prompt(text=persona or None, audio=voice) if persona or voice is not None else None


def _attempt(call: Callable[..., Any], *values: Any) -> Any:
    """What the call gives, or the exception it ended in: a neighbour must not end with this row."""
    try:
        return call(*values)
    except Exception as error:  # noqa: BLE001
        return error


def _heat_of(sampling: SamplingConfig) -> tuple[float, float]:
    return (0.0, 0.0) if sampling.greedy else (sampling.text_temperature, sampling.audio_temperature)
