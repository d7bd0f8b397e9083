"""What is left to chance in a training step: on which frames the depth transformer learns, what of the user is
not heard, and what the system hears of itself.

Every draw belongs to a sample (`generators`: one per sample, seeded by its number), so that it depends neither on how samples
are dealt to processes nor on where a run was stopped.

B samples, K rows, T frames, N chosen steps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from duplex.streams import ZERO_TOKEN, StreamLayout
from train.recipe import FitSettings

TURNS = 0.2  # how often the shift of the user's frames changes
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


def warp_user(codes: Tensor, layout: StreamLayout, most: int, generators: list[np.random.Generator]) -> Tensor:
    """codes [B, K, T] whose user's columns come up to ``most`` frames early or late; a copy where it differs.

    The shift changes by one frame at a time, so that a column is now and then left out or met twice.
    """
    if most == 0 or layout.n_user == 0:
        return codes
    codes, T = codes.clone(), codes.shape[2]
    rows = slice(layout.user_rows.start, layout.user_rows.stop)
    for row, g in zip(codes, generators, strict=True):
        steps = g.choice((-1, 0, 1), T, p=(TURNS / 2, 1 - TURNS, TURNS / 2))
        shift = np.abs((np.cumsum(steps) + g.integers(0, 4 * most)) % (4 * most) - 2 * most) - most  # folded back at both ends
        source = torch.from_numpy(np.clip(np.arange(T) + shift, 0, T - 1)).to(row.device)
        row[rows] = row[rows][:, source]
    return codes


def thin_user(codes: Tensor, layout: StreamLayout, most: float, generators: list[np.random.Generator]) -> Tensor:
    """codes [B, K, T] in which up to a share ``most`` of the user's codes is missing (-1); a copy where it differs."""
    if most == 0 or layout.n_user == 0:
        return codes
    codes = codes.clone()
    rows = slice(layout.user_rows.start, layout.user_rows.stop)
    for row, g in zip(codes, generators, strict=True):
        share = np.float32(most * g.random())
        gone = torch.from_numpy(g.random((layout.n_user, codes.shape[2]), np.float32) < share)
        row[rows] = row[rows].masked_fill(gone.to(row.device), -1)
    return codes


def as_if_silent(codes: Tensor, layout: StreamLayout, pad: int) -> Tensor:
    """codes [B, K, T], a copy, with ``pad`` all along where the whole text is unknown (`train.users_alone`).

    What a model that only listens should write is unknown, but what it sees is what a silent one sees.
    """
    codes = codes.clone()
    text = codes[:, layout.text_row]
    codes[:, layout.text_row] = torch.where((text == ZERO_TOKEN).all(1, keepdim=True), pad, text)
    return codes


class Dropout:
    """Leaves a share of what each branch of a temporal transformer adds to its stream to chance, from one draw a sample.

    A hook on the branches: the model that comes out knows nothing of it. `begin` is called before each training pass.
    """

    def __init__(self, layers: nn.ModuleList, share: float):
        self.share, self.generators = share, []
        for layer in layers:
            for branch in (layer.self_attn, layer.gating if layer.gated else layer.linear2):
                branch.register_forward_hook(self._thin)

    def begin(self, seed: int, samples: list[int]) -> None:
        """``samples``: the numbers of the batch's samples."""
        self.generators = [torch.Generator().manual_seed(int(np.random.SeedSequence((seed, 6, n)).generate_state(1)[0]))
                           for n in samples]

    def end(self) -> None:
        self.generators = []

    def _thin(self, _module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor | None:
        if not self.generators:
            return None
        kept = [torch.rand(output.shape[1:], generator=g) >= self.share for g in self.generators]
        return output * (torch.stack(kept).to(output) / (1 - self.share))
