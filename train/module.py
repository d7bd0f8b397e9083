"""The LightningModule around DuplexLM: loss, optimiser with its two learning rates, and what is logged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import lightning as L
import torch
from torch import Tensor

from duplex.config import LMConfig
from duplex.loss import LossWeights, dialogue_loss
from duplex.model.lm import DuplexLM


@dataclass(frozen=True)
class FitSettings:
    """The [train] table of a language-model recipe."""

    seed: int = 0
    steps: int = 6000
    batch: int = 8
    frames: int = 400
    """Frames in a crop; more than the context, so that every distance is trained."""
    lr: float = 1e-3
    """Learning rate of the temporal transformer and everything but the depth transformer."""
    depth_lr: float = 1e-3
    warmup: int = 100
    final: float = 0.05
    """Learning rate at the end, as a share of its peak (cosine)."""
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    depth_share: float = 0.25
    """Share of the frames on which the depth transformer is evaluated; 1 for all."""
    token_dropout: float = 0.0
    """Share of the user's input columns replaced by "no token", so that no single frame decides."""
    speech_bias: float = 4.0
    """How much likelier a frame on which the system speaks is chosen for the depth transformer than a silent one."""
    validate_every: int = 500
    keep_every: int = 250
    loss: LossWeights = field(default_factory=LossWeights)


class DuplexModule(L.LightningModule):
    """Teacher-forced training of one model on crops ``{"codes": [B, K, T]}``."""

    def __init__(self, config: LMConfig, settings: FitSettings):
        super().__init__()
        self.model = DuplexLM(config)
        self.settings = settings

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """One batch; a loss that is not finite stops the run."""
        codes = batch["codes"]
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.global_step)
        index = self.depth_frames(codes, generator)
        inputs = self.drop_user(codes, generator)
        output = self.model(inputs, depth_index=index)
        out = dialogue_loss(output, codes, self.model.config, self.settings.loss)
        if not torch.isfinite(out.total):
            raise FloatingPointError(f"step {self.global_step}: the loss is not finite; lower lr and resume")
        self.log("loss", out.total, prog_bar=True)
        self.log_dict({f"train/{k}": v for k, v in out.nll.means().items()})
        return out.total

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Unweighted NLL in nats per token, by row; the text row also split word / PAD / EPAD."""
        out = dialogue_loss(self.model(batch["codes"]), batch["codes"], self.model.config, self.settings.loss)
        self.log_dict({f"val/{k}": v for k, v in out.nll.means().items()}, batch_size=len(batch["codes"]))
        self.log("val/total", out.total, prog_bar=True, batch_size=len(batch["codes"]))

    def depth_frames(self, codes: Tensor, generator: torch.Generator) -> Tensor | None:
        """Flat step numbers [N] for the depth transformer: silent frames are all alike, so speech is preferred."""
        s = self.settings
        if s.depth_share >= 1:
            return None
        text = codes[:, 0]
        speaking = (text != self.model.config.existing_text_padding_id).float()[:, None]
        near = torch.nn.functional.max_pool1d(speaking, 13, 1, 6)[:, 0].flatten()
        weights = 1 + (s.speech_bias - 1) * near
        return torch.multinomial(weights, int(s.depth_share * codes[:, 0].numel()), generator=generator).sort().values

    def drop_user(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Input codes with some user columns missing (-1); the targets stay whole."""
        share = self.settings.token_dropout
        layout = self.model.layout
        if share == 0 or layout.n_user == 0:
            return codes
        hit = torch.rand(codes.shape[0], 1, codes.shape[2], generator=generator).to(codes.device) < share
        codes = codes.clone()
        codes[:, layout.user_rows] = codes[:, layout.user_rows].masked_fill(hit, -1)
        return codes

    def configure_optimizers(self):
        """AdamW; the depth transformer has its own rate; vectors and embeddings do not decay."""
        s = self.settings
        groups: dict[tuple[bool, bool], list] = {}
        for name, p in self.model.named_parameters():
            depth = name.startswith(("depformer", "linears"))
            decay = p.dim() >= 2 and "emb" not in name
            groups.setdefault((depth, decay), []).append(p)
        optimizer = torch.optim.AdamW(
            [{"params": ps, "lr": s.depth_lr if depth else s.lr, "weight_decay": s.weight_decay if decay else 0.0}
             for (depth, decay), ps in groups.items()], betas=s.betas, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """Share of the peak learning rate: linear warm-up, then a cosine."""
        s = self.settings
        if step < s.warmup:
            return (step + 1) / s.warmup
        progress = min(1.0, (step - s.warmup) / max(1, s.steps - s.warmup))
        return s.final + (1 - s.final) * 0.5 * (1 + math.cos(math.pi * progress))
