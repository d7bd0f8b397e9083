"""Many conversations stepped together: the rows of one batch, each with its own seed and policy.

The same loop body as `duplex.session.Session`, for offline work in which all conversations begin at once. A row that
gets no frame in a step keeps its state, so that rows may run at different paces. At a fixed number of rows, a row's
frames do not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from duplex.checkpoint import LoadedModel
from duplex.config import SamplingConfig
from duplex.conversation import Conversation, SessionFrame, bias_of
from duplex.errors import InputError
from duplex.policy import DEFAULT_POLICY, PolicyConfig, Steering
from duplex.session import Prompt, Session, prompt_frames, silent_codes
from duplex.units import FRAME_SAMPLES


class SessionBatch:
    """Conversations 0 to n - 1, one for each seed. `policies` may be one for all.

    Raises InputError for an unusable prompt or another number of policies, ConfigError for a model that does not converse.
    """

    def __init__(self, model: LoadedModel, seeds: Sequence[int], sampling: SamplingConfig | None = None,
                 prompt: Prompt | None = None, policies: Sequence[PolicyConfig] | PolicyConfig = DEFAULT_POLICY) -> None:
        probe = Session(model)  # checks that the parts fit together
        rows = len(seeds)
        policies = [policies] * rows if isinstance(policies, PolicyConfig) else list(policies)
        if len(policies) != rows:
            raise InputError(f"{len(policies)} policies for {rows} conversations; give one, or one for each")
        self.layout, self.delay = probe.layout, probe.delay
        self._model, self._engine = model, model.engine(sampling)
        self._state = self._engine.init_state(rows, list(seeds))
        self._codec = model.codec.stream(rows)
        self.talks = [Conversation(model.tokenizer, self.layout, self.delay, policy=policy) for policy in policies]
        """Each conversation beside the model; `finish` them at the end."""
        self._silent_K: torch.Tensor | None = None
        for token, codes_K in prompt_frames(model, prompt):
            nothing = np.zeros((rows, FRAME_SAMPLES), np.float32)
            self._advance(nothing, None, torch.full((rows,), token), codes_K.expand(rows, -1))

    def __len__(self) -> int:
        return len(self.talks)

    def step(self, frames: Mapping[int, np.ndarray]) -> dict[int, SessionFrame]:
        """One frame of the rows in `frames`, float32 [1920] at 24 kHz each; gives the system's frames of those rows."""
        if not frames:
            return {}
        pcm_BS = np.zeros((len(self), FRAME_SAMPLES), np.float32)
        for row, pcm in frames.items():
            if pcm.shape != (FRAME_SAMPLES,) or not np.isfinite(pcm).all():
                raise InputError(f"conversation {row}: a frame is {FRAME_SAMPLES} finite samples, not {list(pcm.shape)}")
            pcm_BS[row] = pcm
        rows = sorted(frames)
        user_BK, tokens_BQ, text_B, system_BS = self._advance(pcm_BS, rows)
        return {row: self.talks[row].say(tokens_BQ[row], int(text_B[row]), user_BK[row], pcm_BS[row], system_BS[row].copy())
                for row in rows}

    def _advance(self, pcm_BS: np.ndarray, rows: list[int] | None, forced_text: torch.Tensor | None = None,
                 forced_system: torch.Tensor | None = None) -> tuple[np.ndarray, ...]:
        """One frame through codec, model and codec for some rows; None: all of them, unheard by the policies."""
        device, layout, tokenizer = self._engine.device, self.layout, self._model.tokenizer
        active = None
        if rows is not None and len(rows) < len(self):
            active = torch.zeros(len(self), dtype=torch.bool)
            active[rows] = True
            active = active.to(device)
        heard = self._codec.encode_frame(torch.from_numpy(pcm_BS)[:, None].to(device), active)[:, : layout.n_user]
        user_BK = heard.cpu().numpy()
        steering = [Steering()] * len(self)
        for row in rows or ():
            steering[row] = self.talks[row].hear(pcm_BS[row], user_BK[row])
        if any(row.silent_codes for row in steering):
            if self._silent_K is None:
                self._silent_K = silent_codes(self._model, device)
            forced_system = torch.full((len(self), layout.n_system), -1, dtype=torch.long, device=device)
            forced_system[[row for row, one in enumerate(steering) if one.silent_codes]] = self._silent_K
        self._state, out = self._engine.step(
            self._state, heard, active=active, forced_text=None if forced_text is None else forced_text.to(device),
            forced_system=forced_system, text_bias=bias_of(steering, tokenizer.vocab_size, tokenizer.pad_id, tokenizer.epad_id))
        system_BS = np.zeros_like(pcm_BS)
        if bool(out.ready.any()):
            whole = bool(out.ready.all())
            codes_BK = out.tokens[:, layout.system_rows].clamp(min=0)  # rows that are not ready hold no codes
            system_BS = self._codec.decode_frame(codes_BK, None if whole else out.ready)[:, 0].float().cpu().numpy()
        return user_BK, out.tokens.cpu().numpy(), out.text_now.cpu().numpy(), system_BS

