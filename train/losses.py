"""Spectral losses for codec training."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn

from duplex.units import SAMPLE_RATE

RESOLUTIONS = ((256, 64, 24), (512, 128, 48), (1024, 256, 80), (2048, 512, 128))  # window, hop, mel bands


class MelLoss(nn.Module):
    """L1 between log-mel spectrograms at four resolutions (multi-resolution spectral loss, as in EnCodec, arXiv:2210.13438,
    section 3.4). pcm [B, 1, S] twice -> scalar.

    The two ends of the spectrum, which mel bands do not reach, count as bands of their own: otherwise a decoder is free to
    whistle at half the sampling rate, which nobody hears and every level meter sees.
    """

    def __init__(self, floor: float = 1e-4):
        super().__init__()
        self.floor = floor
        for window, _, bands in RESOLUTIONS:
            bank = torchaudio.functional.melscale_fbanks(window // 2 + 1, 0.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE)
            self.register_buffer(f"mel_{window}", bank, persistent=False)
            ends = torch.zeros(window // 2 + 1, 2)
            ends[:2, 0] = ends[-2:, 1] = 1.0
            self.register_buffer(f"ends_{window}", ends, persistent=False)
            self.register_buffer(f"window_{window}", torch.hann_window(window), persistent=False)

    def log_mel(self, pcm: Tensor, window: int, hop: int, ends: bool = False) -> Tensor:
        """pcm [B, S] -> [B, frames, bands], with ``ends`` two bands more."""
        taper = getattr(self, f"window_{window}")
        spectrum = torch.stft(pcm, window, hop, window=taper, return_complex=True, normalized=True).abs()
        bands = getattr(self, f"mel_{window}")
        bands = torch.cat([bands, getattr(self, f"ends_{window}")], 1) if ends else bands
        return torch.log(spectrum.transpose(1, 2) @ bands + self.floor)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        total = estimate.new_zeros(())
        for window, hop, _ in RESOLUTIONS:
            a, b = self.log_mel(estimate[:, 0], window, hop, True), self.log_mel(target[:, 0], window, hop, True)
            total = total + (a - b).abs().mean()
        return total / len(RESOLUTIONS)
