"""The LightningModule around DuplexLM: loss, optimiser with its two learning rates, and what is logged."""

from __future__ import annotations

import math
from collections.abc import Mapping

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from duplex.checkpoint import load_lm
from duplex.config import LMConfig
from duplex.loss import NLL, LossOutput, dialogue_loss
from duplex.model.lm import DuplexLM
from duplex.model.lora import add_lora
from train.listening import Listener
from train.optimiser import TwoMemoriesAdamW
from train.recipe import FitRecipe, FitSettings, StartSettings
from train.sharding import shard

__all__ = ["DuplexModule", "FitSettings", "is_depth"]

LOG_EVERY = 20
DEPTH = ("depformer", "linears")


def is_depth(name: str) -> bool:
    """Whether a parameter belongs to the depth transformer, its inputs and its heads."""
    return name.startswith(DEPTH)


def first_model(config: LMConfig, start: StartSettings) -> DuplexLM:
    """The model that training begins with, in float32 on the CPU: fresh, or a folder's, with adapters where asked for."""
    model = DuplexLM(config)
    if start.folder:
        model.load_state_dict(load_lm(start.folder)[0].state_dict())
    if start.lora_rank:
        model.requires_grad_(False)
        add_lora(model, start.lora_rank, start.lora_scaling)
        for name, p in model.named_parameters():
            p.requires_grad_(".lora_" in name or start.train_embeddings and "emb." in name)
    return model


class DuplexModule(L.LightningModule):
    """Teacher-forced training of one model on batches of `train.data.SampleStream`."""

    def __init__(self, config: LMConfig, settings: FitSettings, recipe: FitRecipe | None = None):
        super().__init__()
        self.recipe = recipe or FitRecipe(config, settings)
        self.settings = settings
        self.sharded = self.recipe.machine.strategy == "fsdp"
        if self.sharded:  # nobody holds all weights: they are dealt out in configure_model
            with torch.device("meta"):
                self.model = DuplexLM(config)
        else:
            self.model = first_model(config, self.recipe.start)
        self.listener = Listener(self.model) if settings.heard else None
        self.train()
        if self.recipe.machine.compile and not self.sharded:
            self.model.compile()
        self._seen: NLL | None = None

    def configure_model(self) -> None:
        """With FSDP2: shards every layer over the processes; rank 0 reads the weights and deals them out."""
        if self.sharded and self.model.text_emb.weight.device.type == "meta":
            self.model = shard(self.model, lambda: first_model(self.model.config, self.recipe.start), self.device_mesh,
                               self.device, self.recipe.machine)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """One batch; a loss that is not finite stops the run."""
        rows, text_only = self.model.config.num_rows, bool(batch["text_only"]) or self.recipe.data.kind == "text"
        codes, heard = batch["codes"][:, :rows], batch["codes"][:, rows:]
        generators = [np.random.default_rng((self.settings.seed, 5, int(sample))) for sample in batch["sample"]]
        index = self.depth_frames(codes, generators, text_only)
        out = self.losses(self.drop_user(codes, generators), codes, index)
        total = out.total
        if self.listener is not None and heard.shape[1]:
            nll = self.listener.loss(heard[:, 0])
            total = total + self.settings.heard * nll
            if (self.global_step + 1) % LOG_EVERY == 0:
                self.log("heard", nll.detach(), prog_bar=True, sync_dist=True)
        optimizer = self.optimizers(use_pl_optimizer=False) if self.trainer.optimizers else None
        if isinstance(optimizer, TwoMemoriesAdamW):
            optimizer.text_only = text_only
        logged = (self.global_step + 1) % LOG_EVERY == 0  # when the loggers take what is there
        if codes.device.type == "cpu" or logged:
            if not torch.isfinite(total):
                raise FloatingPointError(f"step {self.global_step}: the loss is not finite; lower train.lr or train.depth_lr "
                                         "and start again with the same --out")
        if logged:
            self.log("loss", total.detach(), prog_bar=True, sync_dist=True)
            self.log_dict({f"train/{k}": v for k, v in out.nll.means().items()}, sync_dist=True)
        return total

    def losses(self, inputs: Tensor, targets: Tensor, index: Tensor | None) -> LossOutput:
        """Loss of ``targets`` given ``inputs``, both int64 [B, K, T], with token counts shared by all processes."""
        return dialogue_loss(self.model(inputs, depth_index=index), targets, self.model.config, self.settings.loss, _mean_of_all)

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Adds up the unweighted likelihoods of one batch."""
        nll = dialogue_loss(self.model(batch["codes"]), batch["codes"], self.model.config, self.settings.loss).nll
        self._seen = nll if self._seen is None else self._seen + nll

    def on_validation_epoch_end(self) -> None:
        """Unweighted NLL in nats per token, by row; the text row also split word / PAD / EPAD."""
        if self._seen is not None:
            means = self._seen.means()
            self.log_dict({f"val/{k}": v for k, v in means.items()})
            audio = [v for k, v in means.items() if k.startswith("audio")]
            self.log("val/total", means.get("text", 0.0) + sum(audio) / max(1, len(audio)), prog_bar=True)
            self._seen = None

    def depth_frames(self, codes: Tensor, generators: list[np.random.Generator], text_only: bool = False) -> Tensor | None:
        """Flat step numbers [N] for the depth transformer: silent frames are all alike, so speech is preferred.

        Each sample's frames are its own choice, so that they do not depend on how samples are dealt to processes.
        """
        s = self.settings
        B, _, T = codes.shape
        if text_only:
            return torch.zeros(0, dtype=torch.long, device=codes.device)
        if s.depth_share >= 1:
            return None
        speaking = (codes[:, 0] != self.model.config.existing_text_padding_id).float()[:, None]
        near = torch.nn.functional.max_pool1d(speaking, 13, 1, 6)[:, 0].cpu().numpy()
        weights = 1 + (s.speech_bias - 1) * near
        count = max(1, int(s.depth_share * T))
        # The largest of u^(1/w) are a sample without replacement with odds w (Efraimidis and Spirakis 2006).
        keys = np.stack([np.log(g.random(T)) for g in generators]) / weights
        chosen = np.sort(np.argpartition(-keys, count - 1, 1)[:, :count], 1)
        return torch.from_numpy((chosen + T * np.arange(B)[:, None]).ravel()).to(codes.device)

    def drop_user(self, codes: Tensor, generators: list[np.random.Generator]) -> Tensor:
        """Input codes with some user columns, or all but the semantic codebook, missing (-1); the targets stay whole."""
        share, bare, layout = self.settings.token_dropout, self.settings.acoustic_dropout, self.model.layout
        if share == bare == 0 or layout.n_user == 0:
            return codes
        hit = torch.from_numpy(np.stack([g.random(codes.shape[2]) < share for g in generators])[:, None]).to(codes.device)
        codes = codes.clone()
        codes[:, layout.user_rows] = codes[:, layout.user_rows].masked_fill(hit, -1)
        alone = torch.tensor([g.random() < bare for g in generators], device=codes.device)[:, None, None]
        acoustic = slice(layout.user_rows.start + 1, layout.user_rows.stop)
        codes[:, acoustic] = codes[:, acoustic].masked_fill(alone, -1)
        return codes

    def configure_optimizers(self) -> Mapping:
        """AdamW; the depth transformer has its own rate; vectors and embeddings do not decay."""
        s = self.settings
        groups: dict[tuple[bool, bool], list] = {}
        for name, p in self.named_parameters():
            if p.requires_grad:
                groups.setdefault((is_depth(name.removeprefix("model.")), p.dim() >= 2 and "emb" not in name), []).append(p)
        tables = [{"params": ps, "lr": s.depth_lr if depth else s.lr, "weight_decay": s.weight_decay if decay else 0.0}
                  for (depth, decay), ps in groups.items()]
        two = self.recipe.data.text_share > 0 and self.recipe.data.kind != "text"
        fused = self.recipe.machine.precision != "bf16-true" and not self.sharded
        optimizer = (TwoMemoriesAdamW if two else torch.optim.AdamW)(tables, betas=s.betas, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """Share of the peak learning rate: linear warm-up, then a cosine or a constant."""
        s = self.settings
        if step < s.warmup:
            return (step + 1) / s.warmup
        if s.schedule == "constant":
            return 1.0
        progress = min(1.0, (step - s.warmup) / max(1, s.steps - s.warmup))
        return s.final + (1 - s.final) * 0.5 * (1 + math.cos(math.pi * progress))


def _mean_of_all(counts: Tensor) -> Tensor:
    """Mean over the processes of a run; the tensor itself where there is one."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return counts
    counts = counts.clone()
    dist.all_reduce(counts)
    return counts / dist.get_world_size()
