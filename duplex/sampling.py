"""Tokens from logits: temperature, top-k, greedy, a repetition guard, patience, and noise that belongs to a batch row.

The noise is a function of (seed, frame, draw) and of nothing else, so a row's tokens do not depend on its
neighbours in the batch and a session can be replayed, cloned or resumed from two integers.

Shapes: B batch, V vocabulary, W repetition window, D draws.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from duplex.config import SamplingConfig

_MASK = 0xFFFFFFFF
QUIET_FRAMES = 20
"""So many frames without text make a system silent (1.6 s): between its own sentences PAD is not favoured."""
WISH_KEPT, WISH_ENOUGH = 0.7, 1.5
"""How much of the wish to speak a frame leaves to the next, and how much of it ends all patience: two sure frames."""


def _mix(x: Tensor) -> Tensor:
    """A bijective scrambling of 32-bit numbers held in int64 (Wellons' lowbias32 constants)."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & _MASK
    x = (x ^ (x >> 15)) * 0x846CA68B & _MASK
    return x ^ (x >> 16)


def uniform_noise(seeds_B: Tensor, frames_B: Tensor, draws: int) -> Tensor:
    """float32 [B, D] in [0, 1): the noise of one frame of each row, from int64 `seeds` and `frames`."""
    state_B = _mix(_mix(seeds_B & _MASK) ^ (seeds_B >> 32 & _MASK))
    state_B = _mix(_mix(state_B ^ (frames_B & _MASK)) + (frames_B >> 32 & _MASK) & _MASK)
    draw_D = torch.arange(1, draws + 1, device=seeds_B.device) * 0x9E3779B9 & _MASK
    bits_BD = _mix(_mix(state_B[:, None] ^ draw_D) + state_B[:, None] & _MASK)
    # 23 bits: the largest value times any total is below that total in float32, so no draw falls off the end.
    return (bits_BD >> 9).float() * 2.0**-23


def pick(logits_BV: Tensor, noise_B: Tensor, temperature: float | Tensor, top_k: int) -> Tensor:
    """int64 [B]: one token per row by inverting the distribution at `noise` [B]; temperature 0 takes the
    largest.

    `temperature` is one number or float [B]. With `top_k` > 0 only the k most likely tokens are candidates.
    """
    if isinstance(temperature, Tensor):
        greedy_B = temperature == 0
        drawn_B = pick(logits_BV / torch.where(greedy_B, 1.0, temperature)[:, None], noise_B, 1.0, top_k)
        return torch.where(greedy_B, logits_BV.argmax(-1), drawn_B)
    if temperature == 0:
        return logits_BV.argmax(-1)
    k = min(top_k, logits_BV.shape[-1]) if top_k > 0 else logits_BV.shape[-1]
    top_Bk, ids_Bk = logits_BV.float().topk(k, dim=-1)
    cumulative_Bk = torch.softmax(top_Bk / temperature, -1).cumsum(-1)
    threshold_B1 = noise_B[:, None] * cumulative_Bk[:, -1:]
    choice_B1 = torch.searchsorted(cumulative_Bk, threshold_B1, right=True).clamp(max=k - 1)
    return ids_Bk.gather(-1, choice_B1)[:, 0]


def discourage(logits_BV: Tensor, recent_BW: Tensor, penalty: float) -> Tensor:
    """The logits with the odds of each token in `recent` (negative: empty) divided by `penalty`, once."""
    if penalty == 1.0 or recent_BW.shape[1] == 0:
        return logits_BV
    amount_BW = torch.where(recent_BW >= 0, math.log(penalty), 0.0).to(logits_BV.dtype)
    amount_BV = torch.zeros_like(logits_BV).scatter_reduce(1, recent_BW.clamp(min=0), amount_BW, "amax")
    return logits_BV - amount_BV


def remember(recent_BW: Tensor, tokens_B: Tensor, where_B: Tensor) -> None:
    """Appends `tokens` to the rows of `recent` where `where` is True, dropping the oldest; in place."""
    if recent_BW.shape[1]:
        shifted_BW = torch.cat([recent_BW[:, 1:], tokens_B[:, None]], 1)
        recent_BW.copy_(torch.where(where_B[:, None], shifted_BW, recent_BW))


def wait(logits_BV: Tensor, onset_B2: Tensor, patience: float, pad: int) -> Tensor:
    """The logits with PAD raised by up to `patience` in rows that are silent, by less the longer they have wished to speak.

    A hearer who is sure of the end of a turn is sure in every frame that follows; one who takes a pause for it often changes his
    mind when the speaker goes on. So a wish that lasts is followed, and a passing one is let pass.
    """
    if patience == 0:
        return logits_BV
    left_B = patience * (1 - onset_B2[:, 0] / WISH_ENOUGH).clamp(min=0)
    raised_BV = logits_BV.clone()
    raised_BV[:, pad] += torch.where(onset_B2[:, 1] >= QUIET_FRAMES, left_B, 0.0).to(logits_BV.dtype)
    return raised_BV


def guarded(logits_BV: Tensor, onset_B2: Tensor, recent_BW: Tensor, settings: SamplingConfig, pad: int) -> Tensor:
    """The text logits with patience and the repetition guard of `settings` applied."""
    return discourage(wait(logits_BV, onset_B2, settings.patience, pad), recent_BW, settings.repetition_penalty)


def note_wish(onset_B2: Tensor, logits_BV: Tensor, tokens_B: Tensor, pad: int, where_B: Tensor) -> None:
    """Brings `onset` (float32 [B, 2]: the wish to speak, and frames since the last text) a frame further where `where`; in place.

    The wish of a frame is the likelihood of anything but PAD, before all that is done to the logits.
    """
    wish_B = WISH_KEPT * onset_B2[:, 0] + 1 - torch.softmax(logits_BV.float(), -1)[:, pad]
    quiet_B = torch.where(tokens_B == pad, onset_B2[:, 1] + 1, 0.0)
    onset_B2.copy_(torch.where(where_B[:, None], torch.stack([wish_B, quiet_B], 1), onset_B2))
