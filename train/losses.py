"""Spectral losses for codec training."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn

from duplex.units import SAMPLE_RATE

RESOLUTIONS = ((256, 64, 24), (512, 128, 48), (1024, 256, 80), (2048, 512, 128))  # window, hop, mel bands


class MelLoss(nn.Module):
    """L1 between log-mel spectrograms at four resolutions (multi-resolution spectral loss, as in EnCodec, arXiv:2210.13438,
    section 3.4). pcm [B, 1, S] twice -> scalar."""

    def __init__(self, floor: float = 1e-4):
        super().__init__()
        self.floor = floor
        for window, _, bands in RESOLUTIONS:
            bank = torchaudio.functional.melscale_fbanks(window // 2 + 1, 0.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE)
            self.register_buffer(f"mel_{window}", bank, persistent=False)
            self.register_buffer(f"window_{window}", torch.hann_window(window), persistent=False)

    def log_mel(self, pcm: Tensor, window: int, hop: int) -> Tensor:
        """pcm [B, S] -> [B, frames, bands]."""
        taper = getattr(self, f"window_{window}")
        spectrum = torch.stft(pcm, window, hop, window=taper, return_complex=True, normalized=True).abs()
        return torch.log(spectrum.transpose(1, 2) @ getattr(self, f"mel_{window}") + self.floor)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        total = estimate.new_zeros(())
        for window, hop, _ in RESOLUTIONS:
            a, b = self.log_mel(estimate[:, 0], window, hop), self.log_mel(target[:, 0], window, hop)
            total = total + (a - b).abs().mean()
        return total / len(RESOLUTIONS)
