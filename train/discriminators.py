"""Adversarial training of the codec: discriminators on spectrograms of several resolutions, and their losses.

As in EnCodec (arXiv:2210.13438, section 3.4) and Mimi (arXiv:2410.00037, section 3.3): each discriminator sees the complex
short-time spectrum of one resolution and says, patch by patch, whether it is a recording. Hinge losses; the codec also matches
the discriminators' inner features.

Shapes: B sounds, S samples, C channels, F frequency bins, T spectrum frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


@dataclass(frozen=True)
class AdversarialSettings:
    """The [adversarial] table of a codec recipe."""

    on: bool = False
    start: int = 0
    """Step from which the codec hears the discriminators; they learn from the first step on."""
    windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    """Samples of each resolution's window; its hop is a quarter of that."""
    channels: int = 32
    lr: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.9)
    weight: float = 4.0
    """Factor of the adversarial term in the codec's loss (4 in Mimi, beside 4 for features)."""
    features: float = 4.0
    """Factor of the feature matching term."""
    every: int = 1
    """Steps between updates of the discriminators."""


class SpectrumDiscriminator(nn.Module):
    """One resolution: convolutions over the complex spectrum, wider in time at every layer."""

    def __init__(self, window: int, channels: int):
        super().__init__()
        self.window = window
        self.register_buffer("taper", torch.hann_window(window), persistent=False)
        layers = [weight_norm(nn.Conv2d(2, channels, (3, 9), padding=(1, 4)))]
        for dilation in (1, 2, 4):
            layers.append(weight_norm(nn.Conv2d(channels, channels, (3, 9), stride=(1, 2), dilation=(dilation, 1),
                                                padding=(dilation, 4))))
        layers.append(weight_norm(nn.Conv2d(channels, channels, (3, 3), padding=(1, 1))))
        self.layers = nn.ModuleList(layers)
        self.last = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, pcm_B1S: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[B, 1, S] -> verdicts [B, 1, T, F'] (above 0: a recording), and the features of every layer [B, C, T, F']."""
        spectrum_BFT = torch.stft(pcm_B1S[:, 0], self.window, self.window // 4, window=self.taper, center=True,
                                  normalized=True, return_complex=True)
        x = torch.view_as_real(spectrum_BFT).permute(0, 3, 2, 1)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.last(x), features


class Discriminators(nn.Module):
    """All resolutions, and the three losses."""

    def __init__(self, settings: AdversarialSettings):
        super().__init__()
        self.settings = settings
        self.scales = nn.ModuleList(SpectrumDiscriminator(w, settings.channels) for w in settings.windows)

    def forward(self, pcm_B1S: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """Verdicts and features of every resolution; sounds shorter than the longest window are filled up with silence."""
        short = max(self.settings.windows) - pcm_B1S.shape[-1]
        return [scale(F.pad(pcm_B1S, (0, max(0, short)))) for scale in self.scales]

    def own_loss(self, recorded_B1S: Tensor, made_B1S: Tensor) -> Tensor:
        """What the discriminators minimise: mean over resolutions of relu(1 - D(recorded)) + relu(1 + D(made))."""
        pairs = zip(self(recorded_B1S), self(made_B1S.detach()), strict=True)
        return _mean([F.relu(1 - real).mean() + F.relu(1 + fake).mean() for (real, _), (fake, _) in pairs])

    def codec_losses(self, recorded_B1S: Tensor, made_B1S: Tensor) -> tuple[Tensor, Tensor]:
        """What the codec minimises: relu(1 - D(made)), and the distance of features, relative to those of the recording.

        Gradients flow into ``made`` alone: the discriminators' weights are left out.
        """
        wanted = [p.requires_grad for p in self.parameters()]
        self.requires_grad_(False)
        try:
            with torch.no_grad():
                real = self(recorded_B1S)
            fake = self(made_B1S)
        finally:
            for p, keep in zip(self.parameters(), wanted, strict=True):
                p.requires_grad_(keep)
        verdict = _mean([F.relu(1 - score).mean() for score, _ in fake])
        distances = [(a - b).abs().mean() / a.abs().mean().clamp(min=1e-6)
                     for (_, ours), (_, theirs) in zip(real, fake, strict=True) for a, b in zip(ours, theirs, strict=True)]
        return verdict, _mean(distances)

    def codec_loss(self, recorded_B1S: Tensor, made_B1S: Tensor, step: int, terms: dict[str, Tensor]) -> Tensor:
        """The weighted term for the codec's loss, 0 before ``start``; its parts are added to ``terms``, for the log."""
        if step < self.settings.start:
            return made_B1S.new_zeros(())
        verdict, features = self.codec_losses(recorded_B1S, made_B1S)
        terms |= {"adversarial": verdict.detach(), "features": features.detach()}
        return self.settings.weight * verdict + self.settings.features * features


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
