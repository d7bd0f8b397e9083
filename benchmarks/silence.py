"""Long stretches in which nobody talks to the system: does it speak unasked?

Hundreds of five-minute runs would be most of a bench's work, though hardly anything happens in them. Runs that hear the same
recording and have chosen the same tokens so far are in the same state, so they are computed once; a run parts from the others
in the frame in which its own noise chooses another text token. This needs audio tokens without chance (temperature 0);
with them every run is computed by itself, and the result is the same either way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from benchmarks.rollout import encode_all
from duplex.checkpoint import LoadedModel
from duplex.config import SamplingConfig
from duplex.engine import Engine, FrameOut, StreamState
from duplex.sampling import guarded, pick, uniform_noise

_BATCH_AXIS = {"frames": 0, "seeds": 0, "line": 0, "kv": 1, "recent": 0, "onset": 0}  # "delays" has none


@dataclass(frozen=True)
class SilentRun:
    """One run; tokens end where it was stopped."""

    text: np.ndarray
    """Text tokens int64 [T], time-aligned; -2 where the acoustic delay leaves them empty."""
    codes: np.ndarray
    """The system's codes int16 [K, T], likewise. Runs that never parted share one array."""
    spoke_at: int | None
    """Step in which the first piece of a word was chosen; None: no word."""


@dataclass
class _Group:
    """Runs with one past."""

    seeds: list[int]
    tokens: list[np.ndarray] = field(default_factory=list)
    spoke_at: int | None = None


def take(state: StreamState, rows: Sequence[int]) -> StreamState:
    """Copies of some rows of a state, in the given order."""
    tensors = state.to_dict()
    index = torch.tensor(list(rows), dtype=torch.long, device=state.frames_B.device)
    return StreamState.from_dict({name: tensor.index_select(_BATCH_AXIS[name], index) if name in _BATCH_AXIS else tensor.clone()
                                  for name, tensor in tensors.items()})


def join(first: StreamState, second: StreamState) -> StreamState:
    """The rows of two states in one."""
    left, right = first.to_dict(), second.to_dict()
    return StreamState.from_dict({name: torch.cat([left[name], right[name]], _BATCH_AXIS[name]) if name in _BATCH_AXIS
                                  else left[name] for name in left})


@torch.no_grad()
def silent_runs(model: LoadedModel, user: np.ndarray, seeds: Sequence[int], *, sampling: SamplingConfig | None = None,
                stop_at_words: bool = True) -> tuple[list[SilentRun], int]:
    """One run a seed while the system hears ``user``, float32 [T * 1920]; also the number of row steps that were computed.

    ``stop_at_words`` ends a run with its first piece of a word, since then it has spoken.
    """
    engine = model.engine(sampling)
    settings, pad = engine.sampling, model.config.existing_text_padding_id
    codes_KT = encode_all(model, [user])[0]
    shared = settings.greedy or settings.audio_temperature == 0
    groups = [_Group(list(seeds))] if shared else [_Group([seed]) for seed in seeds]
    state = engine.init_state(len(groups), [group.seeds[0] for group in groups])
    finished: list[_Group] = []
    steps = 0
    for frame in range(codes_KT.shape[1]):
        heard_K = codes_KT[:, frame]
        before = state.clone() if any(len(group.seeds) > 1 for group in groups) else None
        state, out = engine.step(state, heard_K.expand(len(groups), -1).contiguous())
        steps += len(groups)
        _keep(groups, out, engine)
        chosen = out.text_now.tolist()
        for row in [n for n, group in enumerate(groups) if len(group.seeds) > 1]:
            group = groups[row]
            for token, others in _parting(group, out, before, row, frame, settings, pad).items():
                state, chosen = _part(engine, groups, group, others, token, before, row, heard_K, state, chosen)
                steps += 1
        if stop_at_words:
            stay = []
            for row, token in enumerate(chosen):
                if model.tokenizer.piece_bytes(token):
                    groups[row].spoke_at = frame
                    finished.append(groups[row])
                else:
                    stay.append(row)
            if len(stay) < len(groups):
                groups = [groups[row] for row in stay]
                if not groups:
                    break
                state = take(state, stay)
    return _runs([*finished, *groups], seeds, engine), steps


def _keep(groups: Sequence[_Group], out: FrameOut, engine: Engine) -> None:
    rows = out.tokens[:, : 1 + engine.layout.n_system].cpu().numpy()
    for group, tokens in zip(groups, rows, strict=True):
        group.tokens.append(tokens)


def _parting(group: _Group, out: FrameOut, before: StreamState, row: int, frame: int,
             settings: SamplingConfig, pad: int) -> dict[int, list[int]]:
    """{text token: seeds} of the members that choose another token than the first one."""
    seeds_B = torch.tensor(group.seeds, dtype=torch.long, device=out.text_now.device)
    noise_B = uniform_noise(seeds_B, torch.full_like(seeds_B, frame), 1)[:, 0]
    logits_BV = out.text_logits[row].expand(len(group.seeds), -1)
    recent_BW = before.recent_BW[row].expand(len(group.seeds), -1)
    onset_B2 = before.onset_B2[row].expand(len(group.seeds), -1)
    logits_BV = guarded(logits_BV, onset_B2, recent_BW, settings, pad)
    tokens = pick(logits_BV, noise_B, 0.0 if settings.greedy else settings.text_temperature, settings.text_top_k).tolist()
    own, parting = int(out.text_now[row]), defaultdict(list)
    for seed, token in zip(group.seeds, tokens, strict=True):
        if token != own:
            parting[token].append(seed)
    return parting


def _part(engine: Engine, groups: list[_Group], group: _Group, others: list[int], token: int, before: StreamState, row: int,
          heard_K: torch.Tensor, state: StreamState, chosen: list[int]) -> tuple[StreamState, list[int]]:
    """Repeats this frame for the members that choose ``token`` and adds them as a group with a row of its own."""
    twin = take(before, [row])
    twin.seeds_B[0] = others[0]
    twin, out = engine.step(twin, heard_K[None].contiguous(), forced_text=torch.tensor([token], device=heard_K.device))
    group.seeds = [seed for seed in group.seeds if seed not in others]
    new = _Group(others, group.tokens[:-1])
    _keep([new], out, engine)
    groups.append(new)
    return join(state, twin), [*chosen, token]


def _runs(groups: Sequence[_Group], seeds: Sequence[int], engine: Engine) -> list[SilentRun]:
    layout, by_seed = engine.layout, {}
    for group in groups:
        tokens_QT = np.stack(group.tokens, -1)
        text_T, codes_KT = tokens_QT[layout.text_row].astype(np.int64), tokens_QT[layout.system_rows].astype(np.int16)
        run = SilentRun(text_T, codes_KT, group.spoke_at)
        by_seed |= dict.fromkeys(group.seeds, run)
    return [by_seed[seed] for seed in seeds]
