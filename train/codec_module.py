"""The LightningModule of codec training: one optimiser for the codec, one for the discriminators, and what is kept and logged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from duplex.codec import MimiConfig
from duplex.errors import CheckpointError
from train.codec_data import Batch, Crops
from train.codec_model import CodecTrainer, CodecTraining
from train.discriminators import AdversarialSettings, Discriminators
from train.files import replace_file
from train.keeping import Keeper, Ledger
from train.optimiser import warm_cosine
from train.order import positions
from train.reading import Reader
from train.recipe import MachineSettings
from train.together import place_of, sum_of_all

SAY_EVERY = 50
CLIP = 2.0  # norm of the codec's gradients
FILL_EVERY = 200  # steps between searches for unused entries of the codebooks
LOG = "log.jsonl"
TERMS = ("total", "mel", "commit", "distill", "phones", "heard", "moved", "adversarial", "features", "discriminators")
"""What a step may report, in one order for all processes."""


@dataclass(frozen=True)
class CodecRecipe:
    """A codec recipe: what to build, how to train it, and on what machines."""

    codec: MimiConfig
    train: CodecTraining = CodecTraining()
    adversarial: AdversarialSettings = AdversarialSettings()
    machine: MachineSettings = MachineSettings()


def learning_rate(step: int, settings: CodecTraining) -> float:
    """Linear warm-up, then a cosine to a twentieth."""
    return settings.lr * warm_cosine(step, settings.warmup, settings.steps, 0.05)


class CropStream(IterableDataset):
    """Endless batches of crops. Crop number p depends on the seed and p alone; step s takes those from ``s * batch`` on,
    which are dealt out to the processes in order. Yields the fields of `Batch` that there are, and "sample": int64 [B]."""

    def __init__(self, crops: Crops, settings: CodecTraining, rank: int = 0, world: int = 1, first_step: int = 0):
        self.crops, self.settings, self.rank, self.world, self.first_step = crops, settings, rank, world, first_step

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        s, step = self.settings, self.first_step
        while True:
            mine = positions(step, s.batch, self.rank, self.world)
            batch = self.crops.batch([np.random.default_rng((s.seed, p)) for p in mine], s.frames)
            yield {name: value for name, value in vars(batch).items() if value is not None} | {"sample": torch.tensor(mine)}
            step += 1


class CodecData(L.LightningDataModule):
    """The training crops of a bank; a resumed run goes on with those that it would have had."""

    def __init__(self, crops: Crops, settings: CodecTraining):
        super().__init__()
        self.crops, self.settings = crops, settings

    def train_dataloader(self) -> DataLoader:
        return DataLoader(CropStream(self.crops, self.settings, *place_of(self.trainer)), batch_size=None)


class CodecModule(L.LightningModule):
    """Trains a codec, against discriminators where the recipe wants them. Steps are those of the codec's optimiser."""

    def __init__(self, recipe: CodecRecipe, teacher_dims: int, reader: Reader | None = None):
        super().__init__()
        self.automatic_optimization = False  # two optimisers by turns
        self.recipe, self.settings = recipe, recipe.train
        self.codec = CodecTrainer(recipe.codec, recipe.train, teacher_dims, reader)
        self.nets = Discriminators(recipe.adversarial) if recipe.adversarial.on else None
        self.codec.begin()
        self.used = 0.0

    def learners(self) -> list[torch.nn.Module]:
        """What has an optimiser of its own, in their order."""
        return [part for part in (self.codec, self.nets) if part is not None]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW twice; the codec's rate is set at every step."""
        learning = [p for p in self.codec.parameters() if p.requires_grad]
        found = [torch.optim.AdamW(learning, lr=self.settings.lr, betas=(0.8, 0.99), weight_decay=1e-3)]
        if self.nets is not None:
            found.append(torch.optim.AdamW(self.nets.parameters(), self.nets.settings.lr, self.nets.settings.betas))
        return found

    def training_step(self, batch: dict[str, Tensor], _: int) -> dict[str, Tensor]:
        """One step of the codec, and one of the discriminators; returns the loss as "loss", and its parts."""
        s, step, codec = self.settings, self.global_step, self.codec
        rng = np.random.default_rng((s.seed, 1, step))
        torch.manual_seed((s.seed * 1_000_003 + step) * self.trainer.world_size + self.trainer.global_rank)
        codec.drop_codebooks(rng)
        quantize = step >= (s.heard_from if s.stage == "hearing" else s.quantize_from)
        if s.stage not in ("decoder", "hearing") and quantize and (step == s.quantize_from or step % FILL_EVERY == 0):
            generator = torch.Generator().manual_seed(s.seed * 1_000_003 + step)  # the same in every process
            self.used = codec.fill_codebooks(generator, start=step == s.quantize_from)
        pcm = batch["pcm"]
        names = ("features", "known", "phones", "heard", "own")
        terms = codec.losses(Batch(pcm, *(batch.get(name) for name in names)), quantize)
        if self.nets is not None:
            terms["total"] = terms["total"] + self.nets.codec_loss(pcm, codec.made, step, terms)
        optimizers = self.optimizers()
        first = optimizers[0] if isinstance(optimizers, list) else optimizers
        for group in first.param_groups:
            group["lr"] = learning_rate(step, s)
        first.zero_grad(set_to_none=True)
        self.manual_backward(terms["total"])
        torch.nn.utils.clip_grad_norm_(codec.parameters(), CLIP)
        first.step()
        if self.nets is not None and step % self.nets.settings.every == 0:
            second = optimizers[1].optimizer  # the plain one: its steps are not steps of the run
            terms["discriminators"] = self.nets.own_loss(pcm, codec.made)
            second.zero_grad(set_to_none=True)
            self.manual_backward(terms["discriminators"])
            second.step()
        return {"loss": terms.pop("total").detach()} | {name: value.detach() for name, value in terms.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The vectors that unused entries of the codebooks may come to stand for."""
        checkpoint["recent"] = [rows.cpu() for rows in self.codec.recent]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The counterpart of `on_save_checkpoint`."""
        self.codec.recent.extend(rows.to(self.device) for rows in checkpoint["recent"])


class CodecKeeper(Keeper):
    """Keeps, beside the run's state, the codec as other programs read it: weights and sizes."""

    def __init__(self, out: Path, every: int, ledger: Ledger, config: MimiConfig):
        super().__init__(out, every, ledger)
        self.config = config

    def save(self, trainer: L.Trainer) -> None:
        """State, weights and sizes; each file appears whole or not at all."""
        self.ledger.drain(force=True)  # nothing is written of a loss that is not finite
        if trainer.is_global_zero:  # the state last: a run that is at its end has left its codec
            weights = {k: v.contiguous() for k, v in trainer.lightning_module.codec.mimi.state_dict().items()}
            try:
                replace_file(self.out / "mimi.safetensors", lambda p: save_file(weights, p))
                replace_file(self.out / "mimi.json", lambda p: p.write_text(json.dumps(self.config.to_dict(), indent=1)))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{self.out}: the codec of step {trainer.global_step} could not be written "
                                      f"({str(error).splitlines()[0]}); free some space and start again") from None
        super().save(trainer)


class CodecLog(L.Callback):
    """Says every so many steps where the run is, smoothed, and writes the same line to the run's log."""

    def __init__(self, out: Path, end: int):
        self.path, self.end = out / LOG, end
        self.averages: dict[str, Tensor] = {}  # tensors: an accelerator need not wait for them at every step
        self.last = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: CodecModule, outputs: dict[str, Tensor], *_: Any) -> None:
        """One step's figures, the mean of all processes where a line is due: of those that had the term at all."""
        for name, value in outputs.items():
            name = "total" if name == "loss" else name
            self.averages[name] = 0.98 * self.averages.get(name, value) + 0.02 * value
        step = trainer.global_step
        if step % SAY_EVERY:
            return
        speed, self.last = SAY_EVERY / (time.monotonic() - self.last), time.monotonic()
        nothing = torch.zeros((), device=module.device)
        sums = sum_of_all(torch.stack([self.averages.get(name, nothing).float() for name in TERMS]))
        counts = sum_of_all(torch.tensor([float(name in self.averages) for name in TERMS], device=module.device))
        if trainer.is_global_zero:
            shown = {name: round(total / count, 4)
                     for name, total, count in zip(TERMS, sums.tolist(), counts.tolist(), strict=True) if count}
            if trainer.logger:
                trainer.logger.log_metrics({f"train/{name}": value for name, value in shown.items()}, step)
            line = json.dumps({"step": step, **shown, "used": round(module.used, 3), "steps_per_s": round(speed, 2),
                               "minutes_left": round((self.end - step) / speed / 60, 1)})
            print(line, flush=True)
            with open(self.path, "a") as log:
                log.write(line + "\n")
