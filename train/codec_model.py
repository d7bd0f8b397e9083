"""A codec that learns: the Mimi architecture, its losses and the care of its codebooks (arXiv:2410.00037, section 3.3).

Shapes: B sounds, S samples, D width of the latent, T frames.
"""

from __future__ import annotations

import copy
import math
import random
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from duplex.codec import MimiConfig, build_mimi
from duplex.errors import CheckpointError, ConfigError
from train.codec_data import Batch
from train.losses import MelLoss
from train.phones import PHONES
from train.reading import Reader, nearest_and_soft
from train.together import processes, rows_of_all

STAGES = ("whole", "encoder", "decoder", "hearing")
STEPS_PER_FRAME = 4  # phone labels: 20 ms each
HEAD_WINDOW, HEAD_BANDS, HEAD_HOP = 1024, 80, 240  # the encoder stage's spectrogram: the loss's own, every 10 ms
MEL_STEPS = 4  # of 10 ms in a step of the encoder's rate, 40 ms


@dataclass(frozen=True)
class CodecTraining:
    """The [train] table of a codec recipe."""

    stage: str = "whole"
    """What learns: "whole", "encoder" (with the codebooks; no waveform), "decoder" (all else frozen) or "hearing" (the encoder,
    by what a frozen language model makes out of its codes; codebooks and decoder frozen)."""
    seed: int = 0
    steps: int = 9000
    batch: int = 4
    frames: int = 20
    """Crop length in frames of 80 ms; longer than the attention window, so that every position is trained."""
    lr: float = 1.5e-3
    warmup: int = 200
    quantize_from: int = 500
    """First step at which codes are used; the codebooks start as k-means centres of what the encoder gives by then."""
    quantize_share: float = 0.75
    commit: float = 0.1
    distill: float = 0.4
    phones: float = 1.0
    """Weight of the phone labels' cross-entropy, predicted from the semantic codebook."""
    codebook_dropout: float = 0.0
    """Share of the quantised steps that use a random number of the acoustic codebooks, so that the codec can be cut to fewer."""
    heard: float = 1.0
    """Stage "hearing": weight of the words that the model finds in the codes."""
    heard_from: int = 500
    """Stage "hearing": first step at which the encoder moves; until then the head learns that names the words."""
    own: float = 20.0
    """Stage "hearing": how firmly the latents of the system's voice, and of silence, are held where the stage found them: the
    decoder and the language model's own speech depend on them."""
    others: float = 0.5
    """Stage "hearing": the same for everybody else's voice."""
    stretch: float = 0.0
    """Half of the users' crops are played faster or slower by up to this share."""
    system_share: float = 0.45
    """Share of the crops that are the system's voice."""
    lines_only: bool = False
    """Of the system's voice, count only the lines of the scripts."""
    keep_every: int = 250


def init_variance_preserving(mimi: nn.Module) -> None:
    """He-style start: the package's default shrinks activations layer by layer, and the loss does not move."""
    for module in mimi.modules():
        if isinstance(module, nn.Conv1d) and module.groups == 1:
            fan_in = module.in_channels * module.kernel_size[0]
        elif isinstance(module, nn.ConvTranspose1d) and module.groups == 1:
            fan_in = module.in_channels * module.kernel_size[0] / module.stride[0]
        else:
            continue
        nn.init.normal_(module.weight, std=math.sqrt(1.5 / fan_in))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class CodecTrainer(nn.Module):
    """Mimi, its losses and the care of its codebooks."""

    def __init__(self, config: MimiConfig, settings: CodecTraining, teacher_dims: int, reader: Reader | None = None):
        super().__init__()
        self.settings = settings
        self.mimi = build_mimi(config)
        init_variance_preserving(self.mimi)
        self.mel = MelLoss()
        self.to_teacher = nn.Linear(config.dimension, max(1, teacher_dims))
        self.to_phones = nn.Linear(config.dimension, STEPS_PER_FRAME * len(PHONES))
        self.to_mel = nn.Linear(config.dimension, MEL_STEPS * HEAD_BANDS)
        self.waves: dict[str, nn.Module] = {"encode": self.mimi.encoder, "decode": self.mimi.decoder}  # or compiled forms
        self.recent: deque[Tensor] = deque(maxlen=80)
        self.reader = reader
        self.found: nn.ModuleDict | None = None  # stage "hearing": the encoder as the stage found it
        self.made: Tensor | None = None  # what the codec last made of a batch, for the discriminators
        self.branches = (self.mimi.quantizer.rvq_first, self.mimi.quantizer.rvq_rest)
        for branch in self.branches:
            branch.no_quantization_rate = 1.0 - settings.quantize_share
            for layer in branch.vq.layers:
                layer._codebook.threshold_usage_ratio = 0.0  # refreshed from `recent` below, not from one small batch

    def begin(self) -> None:
        """Sets what learns at the recipe's stage, and what keeps still."""
        mimi, stage = self.mimi, self.settings.stage
        if stage == "decoder":
            for part in (mimi.encoder, mimi.encoder_transformer, mimi.downsample, mimi.quantizer):
                part.requires_grad_(False)
        elif stage == "encoder":
            mimi.decoder.requires_grad_(False)
        elif stage == "hearing":
            for part in (mimi.decoder, mimi.decoder_transformer, mimi.upsample, mimi.quantizer):
                part.requires_grad_(False)
            for part in (self.to_teacher, self.to_phones, self.to_mel):
                part.requires_grad_(False)
            self.found = copy.deepcopy(self.encoding_parts()).requires_grad_(False)
        self.train()
        mimi.quantizer.train(stage not in ("decoder", "hearing"))

    def encoding_parts(self) -> nn.ModuleDict:
        """What makes latents of sound."""
        mimi = self.mimi
        return nn.ModuleDict({"encoder": mimi.encoder, "transformer": mimi.encoder_transformer, "down": mimi.downsample})

    def take(self, weights: dict[str, Tensor]) -> None:
        """Begins with these weights of the codec, which need not be all."""
        self.mimi.load_state_dict(weights, strict=False)
        if self.found is not None:
            self.found.load_state_dict(self.encoding_parts().state_dict())

    def latent(self, pcm: Tensor) -> Tensor:
        """pcm [B, 1, S] -> latent [B, D, T]."""
        (x,) = self.mimi.encoder_transformer(self.waves["encode"](pcm))
        return self.mimi._to_framerate(x)

    def decode(self, latent: Tensor) -> Tensor:
        """latent [B, D, T] -> pcm [B, 1, S]."""
        (x,) = self.mimi.decoder_transformer(self.mimi._to_encoder_framerate(latent))
        return self.waves["decode"](x)

    def losses(self, batch: Batch, quantize: bool) -> dict[str, Tensor]:
        """Loss terms of one batch; ``total`` is their weighted sum."""
        if self.settings.stage == "decoder":
            return self.decoder_losses(batch.pcm)
        if self.settings.stage == "hearing":
            return self.hearing_losses(batch, learning=quantize)
        settings, pcm = self.settings, batch.pcm
        z = self.latent(pcm)
        self.recent.append(rows_of_all(z.detach().transpose(1, 2).reshape(-1, z.shape[1])))
        terms: dict[str, Tensor] = {}
        first, rest = self.branches
        if quantize:
            semantic, acoustic = first(z, 12.5), rest(z, 12.5)
            latent, spoken = semantic.x + acoustic.x, semantic.x
            terms["commit"] = semantic.penalty + acoustic.penalty
        else:
            spoken = first.output_proj(first.input_proj(z))
            latent = spoken + rest.output_proj(rest.input_proj(z))
        if settings.stage == "encoder":
            terms["mel"] = self.mel_from(latent, pcm)
        else:
            self.made = self.decode(latent)
            terms["mel"] = self.mel(self.made, pcm)
        total = terms["mel"] + settings.commit * terms.get("commit", 0.0)
        if batch.features is not None and batch.known.any():
            guess = self.to_teacher(spoken.transpose(1, 2))
            cosine = F.cosine_similarity(guess[batch.known], batch.features[batch.known], dim=-1)
            terms["distill"] = 1 - cosine.mean()
            total = total + settings.distill * terms["distill"]
        if batch.phones is not None and (batch.phones >= 0).any():
            guess = self.to_phones(spoken.transpose(1, 2)).unflatten(-1, (STEPS_PER_FRAME, len(PHONES)))
            terms["phones"] = F.cross_entropy(guess.flatten(0, 2), batch.phones.flatten(), ignore_index=-1)
            total = total + settings.phones * terms["phones"]
        terms["total"] = total
        return terms

    def mel_from(self, latent: Tensor, pcm: Tensor) -> Tensor:
        """How far a spectrogram read off the decoder's transformer is from the sound's: the encoder's stage."""
        (x,) = self.mimi.decoder_transformer(self.mimi._to_encoder_framerate(latent))
        guess = self.to_mel(x.transpose(1, 2)).unflatten(-1, (MEL_STEPS, HEAD_BANDS)).flatten(1, 2)
        target = self.mel.log_mel(pcm[:, 0], HEAD_WINDOW, HEAD_HOP)[:, : guess.shape[1]]
        return (guess - target).abs().mean()

    def decoder_losses(self, pcm: Tensor) -> dict[str, Tensor]:
        """Loss of the decoder alone, from the codes that are fixed by now."""
        with torch.no_grad():
            latent = self.mimi.quantizer.decode(self.mimi.quantizer.encode(self.latent(pcm)))
        self.made = self.decode(latent)
        mel = self.mel(self.made, pcm)
        return {"mel": mel, "total": mel}

    def hearing_losses(self, batch: Batch, learning: bool) -> dict[str, Tensor]:
        """Loss of the encoder by what the reader understands; before it is ``learning``, of the reader's head alone."""
        settings, pcm = self.settings, batch.pcm
        with torch.set_grad_enabled(learning):
            z = self.latent(pcm)
        tables, codes, terms, away = self.reader.tables(), [], [], 0.0
        for branch in self.branches:
            some, soft, distance = nearest_and_soft(z, branch, tables[len(terms) :])
            codes.append(some)
            terms += soft
            away = away + distance
        out = {"heard": self.reader.loss(torch.cat(codes, 1), terms, batch.heard)}
        total = settings.heard * out["heard"]
        if learning:
            with torch.no_grad():
                (x,) = self.found["transformer"](self.found["encoder"](pcm))
                before = self.found["down"](x)
            moved = (z - before).square().mean(1) / before.square().mean()  # [B, T]
            held = torch.where(batch.own, settings.own, settings.others)
            out |= {"commit": away, "moved": moved.mean()}
            total = total + settings.commit * away + (held * moved).mean()
        return out | {"total": total}

    def drop_codebooks(self, rng: np.random.Generator) -> None:
        """Whether the next step quantises with fewer acoustic codebooks, and with how many, drawn from ``rng``."""
        rest = self.branches[1]
        rest.q_dropout = bool(rng.random() < self.settings.codebook_dropout)
        rest.rng_dropout = random.Random(int(rng.integers(2**31)))

    @torch.no_grad()
    def fill_codebooks(self, generator: torch.Generator, start: bool) -> float:
        """Give unused entries the place of a recent vector (all of them, by k-means, at the start). Returns the share used.

        The recent vectors are those of all processes, so that all come to the same codebooks."""
        vectors = torch.cat(list(self.recent))
        used = []
        for branch in self.branches:
            residual = branch.input_proj(vectors.T[None])[0].T
            for layer in branch.vq.layers:
                book = layer._codebook
                if start:
                    centres, counts = k_means(residual, book.codebook_size, generator)
                    counts = counts / processes()  # the running sums are means over the processes
                    book.embedding_sum.copy_(centres * counts[:, None])
                    book.cluster_usage.copy_(counts)
                    book._initialized.fill_(1)
                    book.register_buffer("_embedding", None)
                codes = torch.cdist(residual, book.embedding).argmin(-1)
                counts = torch.bincount(codes, minlength=book.codebook_size)
                dead = counts == 0
                used.append(1 - dead.float().mean().item())
                if dead.any() and not start:
                    chosen = torch.randint(len(residual), (int(dead.sum()),), generator=generator).to(residual.device)
                    usage = book.cluster_usage.mean()
                    book.embedding_sum[dead] = residual[chosen] * usage
                    book.cluster_usage[dead] = usage
                    book.register_buffer("_embedding", None)
                residual = residual - book.embedding[torch.cdist(residual, book.embedding).argmin(-1)]
        return sum(used) / len(used)


def k_means(points: Tensor, count: int, generator: torch.Generator, rounds: int = 12) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm: points [N, D] -> centres [count, D], points per centre [count]."""
    chosen = torch.randperm(len(points), generator=generator)[:count]
    more = torch.randint(len(points), (count - len(chosen),), generator=generator)
    centres = points[torch.cat([chosen, more]).to(points.device)]
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(-1)
        counts = torch.bincount(nearest, minlength=count).float()
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return centres, counts.clamp(min=0.5)


def start_from(trainer: CodecTrainer, folder: Path) -> None:
    """Takes over the weights of another run's codec that fit by name and shape (more layers or another stage keep the rest)."""
    own = trainer.mimi.state_dict()
    try:
        found = load_file(folder / "mimi.safetensors")
    except SafetensorError as error:
        raise CheckpointError(f"{folder / 'mimi.safetensors'}: damaged ({error}); train that codec again") from None
    fitting = {k: v for k, v in found.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise ConfigError(f"{folder}: no tensor fits this recipe's codec; start from a codec of its width")
    trainer.take(fitting)
    print(f"{len(fitting)} of {len(own)} tensors from {folder}")
