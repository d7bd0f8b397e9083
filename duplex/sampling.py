"""Tokens from logits: temperature, top-k, greedy, a repetition guard, and noise that belongs to a batch row.

The noise is a function of (seed, frame, draw) and of nothing else, so a row's tokens do not depend on its
neighbours in the batch and a session can be replayed, cloned or resumed from two integers.

Shapes: B batch, V vocabulary, W repetition window, D draws.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


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
