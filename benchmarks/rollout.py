"""Many conversations with recorded users at once: the rows of one batch instead of one session after another.

A `duplex.session.Session` handles one conversation frame by frame. Where the user is a recording, the encoder can hear many of
them together, then the model steps many conversations together, then the decoder speaks them together. The result is the
session's (a test compares the two), several times sooner.
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
from duplex.units import FRAME_SAMPLES

CODEC_ROWS = 16
"""Recordings that the codec hears or speaks together."""


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
    for number, pcm in enumerate(users):
        if pcm.ndim != 1 or len(pcm) == 0 or len(pcm) % FRAME_SAMPLES or not np.isfinite(pcm).all():
            raise InputError(f"recording {number} has shape {list(pcm.shape)}; "
                             f"give finite float32 [frames * {FRAME_SAMPLES}]")
    different = sorted({id(pcm): pcm for pcm in users}.values(), key=len)
    n_user, device = model.lm.layout.n_user, model.lm.text_linear.weight.device
    known: dict[int, torch.Tensor] = {}
    for at in range(0, len(different), CODEC_ROWS):
        chosen = different[at : at + CODEC_ROWS]
        frames, stream = len(chosen[-1]) // FRAME_SAMPLES, model.codec.stream(len(chosen))
        sound_BTS = np.zeros((len(chosen), frames, FRAME_SAMPLES), np.float32)
        for row, pcm in enumerate(chosen):
            sound_BTS[row, : len(pcm) // FRAME_SAMPLES] = pcm.reshape(-1, FRAME_SAMPLES)
        pcm_BTS = torch.from_numpy(sound_BTS).to(device)
        codes_BKT = torch.stack([stream.encode_frame(pcm_BTS[:, None, frame].contiguous()) for frame in range(frames)], -1)
        for row, pcm in enumerate(chosen):
            known[id(pcm)] = codes_BKT[row, :n_user, : len(pcm) // FRAME_SAMPLES]
    return [known[id(pcm)] for pcm in users]


@torch.no_grad()
def rollouts(model: LoadedModel, users: Sequence[np.ndarray], seeds: Sequence[int], *, sampling: SamplingConfig | None = None,
             batch: int = 64, decode: bool = True, hold: Sequence[int] | None = None,
             progress: Progress | None = None) -> list[Rollout]:
    """Plays each recording to a conversation of its own, seeded as `Session(model, sampling, seed)` would be.

    Recordings are float32 [T * 1920] at 24 kHz, each of its own length. ``decode`` False leaves the sound out. ``hold`` gives a
    number of frames for each in which its text is padding, whatever the model would say. Raises InputError for unusable ones.
    """
    if len(users) != len(seeds):
        raise InputError(f"{len(users)} recordings but {len(seeds)} seeds; give one seed each")
    engine = model.engine(sampling)
    found: list[Rollout | None] = [None] * len(users)
    # Rows of about the same length go together, so that few steps are spent on rows that are over.
    order = sorted(range(len(users)), key=lambda n: -len(users[n]))
    done = 0
    for at in range(0, len(order), batch):
        chosen = order[at : at + batch]
        text_BT, codes_BKT = _generate(engine, encode_all(model, [users[n] for n in chosen]), [seeds[n] for n in chosen],
                                       None if hold is None else [hold[n] for n in chosen], model.config.existing_text_padding_id)
        lengths = [len(users[n]) // FRAME_SAMPLES for n in chosen]
        codes = [codes_BKT[row, :, :frames] for row, frames in enumerate(lengths)]
        sounds = decode_all(model, codes, engine.max_delay) if decode else [np.zeros(0, np.float32)] * len(chosen)
        for row, (number, frames) in enumerate(zip(chosen, lengths, strict=True)):
            text_T = text_BT[row, :frames]
            found[number] = Rollout(sounds[row], read_row(model, text_T, engine.max_delay), text_T, codes[row])
        done += len(chosen)
        if progress:
            progress(done, len(users))
    return found  # type: ignore[return-value]


def _generate(engine: Engine, users: Sequence[torch.Tensor], seeds: Sequence[int],
              hold: Sequence[int] | None = None, pad: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Text [B, T] and codes [B, K, T] of a batch, time-aligned; recordings that are over go on as "no input"."""
    layout = engine.layout
    frames = max(codes.shape[1] for codes in users)
    heard_BKT = torch.full((len(users), layout.n_user, frames), -1, dtype=torch.long, device=engine.device)
    for row, codes in enumerate(users):
        heard_BKT[row, :, : codes.shape[1]] = codes
    state = engine.init_state(len(users), list(seeds))
    tokens, hold_B = [], torch.tensor(hold or [0], device=engine.device)
    for frame in range(frames):
        forced = torch.where(frame < hold_B, pad, -1) if hold else None
        state, out = engine.step(state, heard_BKT[:, :, frame].contiguous(), forced_text=forced)
        tokens.append(out.tokens[:, : 1 + layout.n_system].to(torch.int32))
    tokens_BQT = torch.stack(tokens, -1).cpu().numpy()
    return tokens_BQT[:, layout.text_row].astype(np.int64), tokens_BQT[:, layout.system_rows].astype(np.int16)


def read_row(model: LoadedModel, text_T: np.ndarray, delay: int) -> tuple[Word, ...]:
    """Words of a time-aligned text row whose first ``delay`` frames are empty, as a session reads them."""
    reader = RowReader(model.tokenizer, frame=delay)
    words: list[Word] = []
    for token in text_T[delay:]:
        words += reader.push(int(token))[1]
    return (*words, *reader.flush())


@torch.no_grad()
def decode_all(model: LoadedModel, codes: Sequence[np.ndarray], delay: int) -> list[np.ndarray]:
    """Sound float32 [T * 1920] of each array of codes [K, T]; silent in the first ``delay`` frames, which are empty."""
    device = model.lm.text_linear.weight.device
    order = sorted(range(len(codes)), key=lambda n: codes[n].shape[1])
    found: list[np.ndarray] = [np.zeros(0, np.float32)] * len(codes)
    for at in range(0, len(order), CODEC_ROWS):
        chosen = order[at : at + CODEC_ROWS]
        frames, stream = codes[chosen[-1]].shape[1], model.codec.stream(len(chosen))
        padded_BKT = np.zeros((len(chosen), codes[chosen[-1]].shape[0], frames), np.int64)
        for row, n in enumerate(chosen):
            padded_BKT[row, :, : codes[n].shape[1]] = codes[n]
        codes_BKT = torch.from_numpy(padded_BKT).to(device)
        sound_BTS = np.zeros((len(chosen), frames, FRAME_SAMPLES), np.float32)
        for frame in range(delay, frames):
            sound_BTS[:, frame] = stream.decode_frame(codes_BKT[:, :, frame].contiguous())[:, 0].float().cpu().numpy()
        for row, n in enumerate(chosen):
            found[n] = sound_BTS[row, : codes[n].shape[1]].reshape(-1)
    return found
