"""Many conversations with recorded users at once: the rows of one batch instead of one session after another.

A `duplex.session.Session` handles one conversation frame by frame. When the user is a recording, the encoder can hear it in one
pass and the decoder can speak at the end in one pass, since codec and model are causal; only the model must step, and it
steps many conversations together. The result is the session's (tests compare the two), several times sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from duplex.checkpoint import LoadedModel
from duplex.config import SamplingConfig
from duplex.engine import Engine
from duplex.errors import InputError
from duplex.text import RowReader, Word
from duplex.units import FRAME_SAMPLES, frames_to_samples


@dataclass(frozen=True)
class Rollout:
    """What a system did while it heard one recording; frame i of both sides is the same 80 ms."""

    pcm: np.ndarray
    """The system's sound, float32 [T * 1920]; empty when it was not asked for."""
    words: tuple[Word, ...]
    """Its inner monologue, in seconds."""
    text: np.ndarray
    """Text tokens int64 [T]; -2 in the first frames, which the acoustic delay leaves empty."""
    codes: np.ndarray
    """The system's codes int16 [K, T], likewise."""


Progress = Callable[[int, int], None]
"""Called with (conversations done, all)."""


def encode_all(model: LoadedModel, users: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Codes int64 [n_user, T] of each recording float32 [T * 1920]; one that occurs twice is encoded once.

    Raises InputError for a recording that is not whole frames of finite samples.
    """
    known: dict[int, torch.Tensor] = {}
    found = []
    n_user, device = model.lm.layout.n_user, model.lm.text_linear.weight.device
    for number, pcm in enumerate(users):
        if id(pcm) not in known:
            if pcm.ndim != 1 or len(pcm) == 0 or len(pcm) % FRAME_SAMPLES or not np.isfinite(pcm).all():
                raise InputError(f"recording {number} has shape {list(pcm.shape)}; "
                                 f"give finite float32 [frames * {FRAME_SAMPLES}]")
            pcm_11S = torch.from_numpy(np.ascontiguousarray(pcm, np.float32))[None, None].to(device)
            known[id(pcm)] = model.codec.encode(pcm_11S)[0, :n_user]
        found.append(known[id(pcm)])
    return found


@torch.no_grad()
def rollouts(model: LoadedModel, users: Sequence[np.ndarray], seeds: Sequence[int], *, sampling: SamplingConfig | None = None,
             batch: int = 64, decode: bool = True, progress: Progress | None = None) -> list[Rollout]:
    """Plays each recording to a conversation of its own, seeded as `Session(model, sampling, seed)` would be.

    Recordings are float32 [T * 1920] at 24 kHz, each of its own length. ``decode`` False leaves the sound out. Raises InputError
    for unusable recordings.
    """
    if len(users) != len(seeds):
        raise InputError(f"{len(users)} recordings but {len(seeds)} seeds; give one seed each")
    engine = Engine(model.lm, sampling or model.sampling)
    found: list[Rollout | None] = [None] * len(users)
    # Rows of about the same length go together, so that few steps are spent on rows that are over.
    order = sorted(range(len(users)), key=lambda n: -len(users[n]))
    done = 0
    for at in range(0, len(order), batch):
        chosen = order[at : at + batch]
        text_BT, codes_BKT = _generate(engine, encode_all(model, [users[n] for n in chosen]), [seeds[n] for n in chosen])
        lengths = [len(users[n]) // FRAME_SAMPLES for n in chosen]
        for row, (number, frames) in enumerate(zip(chosen, lengths, strict=True)):
            found[number] = _finished(model, engine, text_BT[row, :frames], codes_BKT[row, :, :frames], decode)
        done += len(chosen)
        if progress:
            progress(done, len(users))
    return found  # type: ignore[return-value]


def _generate(engine: Engine, users: Sequence[torch.Tensor], seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Text [B, T] and codes [B, K, T] of a batch, time-aligned; recordings that are over go on as "no input"."""
    layout = engine.layout
    frames = max(codes.shape[1] for codes in users)
    heard_BKT = torch.full((len(users), layout.n_user, frames), -1, dtype=torch.long, device=engine.device)
    for row, codes in enumerate(users):
        heard_BKT[row, :, : codes.shape[1]] = codes
    state = engine.init_state(len(users), list(seeds))
    tokens = []
    for frame in range(frames):
        state, out = engine.step(state, heard_BKT[:, :, frame].contiguous())
        tokens.append(out.tokens[:, : 1 + layout.n_system].to(torch.int32))
    tokens_BQT = torch.stack(tokens, -1).cpu().numpy()
    return tokens_BQT[:, layout.text_row].astype(np.int64), tokens_BQT[:, layout.system_rows].astype(np.int16)


def _finished(model: LoadedModel, engine: Engine, text_T: np.ndarray, codes_KT: np.ndarray, decode: bool) -> Rollout:
    delay = engine.max_delay
    words = read_row(model, text_T, delay)
    pcm = decode_codes(model, codes_KT, delay) if decode else np.zeros(0, np.float32)
    return Rollout(pcm, words, text_T, codes_KT)


def read_row(model: LoadedModel, text_T: np.ndarray, delay: int) -> tuple[Word, ...]:
    """Words of a time-aligned text row whose first ``delay`` frames are empty, as a session reads them."""
    reader = RowReader(model.tokenizer, frame=delay)
    words: list[Word] = []
    for token in text_T[delay:]:
        words += reader.push(int(token))[1]
    return (*words, *reader.flush())


@torch.no_grad()
def decode_codes(model: LoadedModel, codes_KT: np.ndarray, delay: int) -> np.ndarray:
    """Sound float32 [T * 1920] of codes whose first ``delay`` frames are empty: silence there, as in a session."""
    frames = codes_KT.shape[1]
    if frames <= delay:
        return np.zeros(frames_to_samples(frames), np.float32)
    device = model.lm.text_linear.weight.device
    codes_1KT = torch.from_numpy(codes_KT[:, delay:].astype(np.int64))[None].to(device)
    pcm = model.codec.decode(codes_1KT)[0, 0].float().cpu().numpy()
    return np.concatenate([np.zeros(frames_to_samples(delay), np.float32), pcm])
