"""What is left to chance in a training step: on which frames the depth transformer learns, what of the user is
not heard, and what the system hears of itself.

Every draw belongs to a sample (`generators`: one per sample, seeded by its number), so that it depends neither on how samples
are dealt to processes nor on where a run was stopped.

B samples, K rows, T frames, N chosen steps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from duplex.streams import StreamLayout
from train.recipe import FitSettings

NEAR = 6  # frames around a word piece that count as speech


def depth_frames(codes: Tensor, pad: int, settings: FitSettings, generators: list[np.random.Generator],
                 text_only: bool = False) -> Tensor | None:
    """Flat step numbers [N] for the depth transformer of codes [B, K, T]; None for all, empty in a batch of text alone.

    Silent frames are all alike, so frames with speech, where the text row is not ``pad``, are `speech_bias` times as likely.
    """
    B, _, T = codes.shape
    if text_only:
        return torch.zeros(0, dtype=torch.long, device=codes.device)
    if settings.depth_share >= 1:
        return None
    speaking = (codes[:, 0] != pad).float()[:, None]
    near = torch.nn.functional.max_pool1d(speaking, 2 * NEAR + 1, 1, NEAR)[:, 0].cpu().numpy()
    weights = 1 + (settings.speech_bias - 1) * near
    count = max(1, int(settings.depth_share * T))
    # The largest of u^(1/w) are a sample without replacement with odds w (Efraimidis and Spirakis 2006).
    keys = np.stack([np.log(g.random(T)) for g in generators]) / weights
    chosen = np.sort(np.argpartition(-keys, count - 1, 1)[:, :count], 1)
    return torch.from_numpy((chosen + T * np.arange(B)[:, None]).ravel()).to(codes.device)


def drop_user(codes: Tensor, layout: StreamLayout, settings: FitSettings, generators: list[np.random.Generator]) -> Tensor:
    """codes [B, K, T] with some user columns, or all but the user's semantic codebook, missing (-1); a copy where it differs."""
    share, bare = settings.token_dropout, settings.acoustic_dropout
    if share == bare == 0 or layout.n_user == 0:
        return codes
    hit = torch.from_numpy(np.stack([g.random(codes.shape[2]) < share for g in generators])[:, None]).to(codes.device)
    codes = codes.clone()
    codes[:, layout.user_rows] = codes[:, layout.user_rows].masked_fill(hit, -1)
    alone = torch.tensor([g.random() < bare for g in generators], device=codes.device)[:, None, None]
    acoustic = slice(layout.user_rows.start + 1, layout.user_rows.stop)
    codes[:, acoustic] = codes[:, acoustic].masked_fill(alone, -1)
    return codes


def mix_own(codes: Tensor, layout: StreamLayout, most: float, generators: list[np.random.Generator]) -> Tensor:
    """codes [B, K, T] in which up to a share ``most`` of the system's columns are those of other frames; a copy where it differs.

    What a model hears of itself while it learns is a recording, and tells the rest of a word whose first piece was written.
    While it speaks it hears its own sound, which is worse: it must not count on it (exposure bias).
    """
    if most == 0:
        return codes
    codes, T = codes.clone(), codes.shape[2]
    for row, g in zip(codes, generators, strict=True):
        hit = torch.from_numpy(g.random(T) < most * g.random())
        other = torch.from_numpy(g.integers(0, T, T))
        rows = slice(layout.system_rows.start, layout.system_rows.stop)
        row[rows] = torch.where(hit.to(row.device), row[rows][:, other.to(row.device)], row[rows])
    return codes
