"""The LightningModule around DuplexLM: loss, optimiser with its two learning rates, and what is logged."""

from __future__ import annotations

from collections.abc import Mapping

import lightning as L
import numpy as np
import torch
from torch import Tensor

from duplex.checkpoint import load_lm
from duplex.config import LMConfig
from duplex.loss import NLL, LossOutput, dialogue_loss
from duplex.model.lm import DuplexLM
from duplex.model.lora import add_lora
from train.chances import Dropout, as_if_silent, depth_frames, drop_user, mix_own, thin_user, warp_user
from train.listening import Listener
from train.optimiser import SPEECH, TwoMemoriesAdamW, warm_cosine
from train.recipe import FitRecipe, FitSettings, StartSettings
from train.sharding import shard
from train.together import mean_of_all, nll_of_all

__all__ = ["DuplexModule", "FitSettings", "is_depth"]

LOG_EVERY = 20
DEPTH = ("depformer", "linears")


def is_depth(name: str) -> bool:
    """Whether a parameter belongs to the depth transformer, its inputs and its heads."""
    return name.startswith(DEPTH)


def is_speech(name: str) -> bool:
    """Whether a parameter has no part in a batch of text alone."""
    return is_depth(name) or name.startswith(("emb.", "listener."))


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
    if start.depth_only:
        for name, p in model.named_parameters():
            p.requires_grad_(is_depth(name))
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
        self.dropout = Dropout(self.model.transformer.layers, settings.dropout) if settings.dropout else None
        self.train()
        if self.recipe.machine.compile and not self.sharded:
            self.model.compile()
        self._seen: NLL | None = None

    def configure_model(self) -> None:
        """With FSDP2: shards every layer over the processes; rank 0 reads the weights and deals them out."""
        if self.sharded and self.model.text_emb.weight.device.type == "meta":
            self.model = shard(self.model, lambda: first_model(self.model.config, self.recipe.start), self.device_mesh,
                               self.device, self.recipe.machine)

    def on_before_batch_transfer(self, batch: dict[str, Tensor], _: int) -> dict[str, Tensor]:
        """Draws what is left to chance while the codes are still in main memory, so that no accelerator has to wait for it."""
        if not self.trainer.training:
            return batch
        s, codes = self.settings, batch["codes"][:, : self.model.config.num_rows]
        generators = [np.random.default_rng((s.seed, 5, sample)) for sample in batch["sample"].tolist()]
        text_only = bool(batch["text_only"]) or self.recipe.data.kind == "text"
        pad = self.model.config.existing_text_padding_id
        index = depth_frames(codes, pad, s, generators, text_only)
        layout = self.model.layout
        inputs = mix_own(warp_user(codes, layout, s.warp, generators), layout, s.own_noise, generators)
        inputs = thin_user(drop_user(inputs, layout, s, generators), layout, s.codebook_dropout, generators)
        inputs = as_if_silent(inputs, layout, pad) if s.listen else inputs
        return batch | {"inputs": inputs, "index": index, "text_only": text_only}

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The loss of one batch (`Ledger` stops the run where it is not finite)."""
        rows = self.model.config.num_rows
        codes, heard = batch["codes"][:, :rows], batch["codes"][:, rows:]
        if self.dropout is not None:
            self.dropout.begin(self.settings.seed, batch["sample"].tolist())
        out = self.losses(batch["inputs"], codes, batch["index"])
        if self.dropout is not None:
            self.dropout.end()
        total, terms = out.total, {}
        if self.listener is not None and heard.shape[1]:
            terms["heard"] = self.listener.loss(heard[:, 0], mean_of_all)
            total = total + self.settings.heard * terms["heard"]
        optimizer = self.optimizers(use_pl_optimizer=False) if self.trainer.optimizers else None
        if isinstance(optimizer, TwoMemoriesAdamW):
            optimizer.text_only = batch["text_only"]
        if (self.global_step + 1) % LOG_EVERY == 0:  # when the loggers take what is there
            for name, value in {"loss": total, **terms}.items():
                self.log(name, mean_of_all(value.detach()), prog_bar=True)
            self.log_dict({f"train/{k}": v for k, v in nll_of_all(out.nll).means().items()})
        return total

    def losses(self, inputs: Tensor, targets: Tensor, index: Tensor | None) -> LossOutput:
        """Loss of ``targets`` given ``inputs``, both int64 [B, K, T], with token counts shared by all processes."""
        out = self.model(targets, depth_index=index, seen=inputs)
        return dialogue_loss(out, targets, self.model.config, self.settings.loss, mean_of_all)

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

    def configure_optimizers(self) -> Mapping:
        """AdamW; the depth transformer has its own rate; vectors and embeddings do not decay."""
        s = self.settings
        two = self.recipe.data.text_share > 0 and self.recipe.data.kind != "text"
        groups: dict[tuple[bool, bool, bool], list] = {}
        for name, p in self.named_parameters():
            if p.requires_grad:
                name = name.removeprefix("model.")
                groups.setdefault((is_depth(name), p.dim() >= 2 and "emb" not in name, two and is_speech(name)), []).append(p)
        tables = [{"params": ps, "lr": s.depth_lr if depth else s.lr, "weight_decay": s.weight_decay if decay else 0.0}
                  | ({SPEECH: speech} if two else {}) for (depth, decay, speech), ps in groups.items()]
        # Lightning clips no gradients of a fused optimiser under mixed precision; shares of weights have no fused kernel.
        fused = self.recipe.machine.precision == "32-true" and not self.sharded
        optimizer = (TwoMemoriesAdamW if two else torch.optim.AdamW)(tables, betas=s.betas, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """Share of the peak learning rate: linear warm-up, then a cosine or a constant."""
        s = self.settings
        return warm_cosine(step, s.warmup, s.steps, 1.0 if s.schedule == "constant" else s.final)

