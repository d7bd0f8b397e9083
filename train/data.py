"""Batches of token crops for the language model, in an order that can be resumed exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from train.shards import ShardSet, sample_index


class CropStream(IterableDataset):
    """Endless batches: batch number ``step`` holds samples ``(step * world + rank) * size …`` of one sequence.

    Yields {"codes": int64 [B, K, T], "sample": int64 [B]}. Setting ``first_step`` before iterating resumes exactly there.
    """

    def __init__(self, shards: ShardSet, frames: int, batch: int, seed: int, rank: int = 0, world: int = 1):
        self.shards, self.frames, self.batch, self.seed = shards, frames, batch, seed
        self.rank, self.world = rank, world
        self.first_step = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        step = self.first_step
        while True:
            first = (step * self.world + self.rank) * self.batch
            positions = range(first, first + self.batch)
            crops = [self.shards.crop(sample_index(self.seed, p, len(self.shards)), self.frames,
                                      np.random.default_rng((self.seed, 1, p))) for p in positions]
            yield {"codes": torch.stack(crops), "sample": torch.tensor(positions)}
            step += 1


class DialogueData(L.LightningDataModule):
    """Training and validation crops of two folders of shards."""

    def __init__(self, train: Path, validation: Path, frames: int, batch: int, seed: int):
        super().__init__()
        self.train_shards, self.validation_shards = ShardSet(train), ShardSet(validation)
        self.frames, self.batch, self.seed = frames, batch, seed
        self.first_step = 0

    def train_dataloader(self) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        stream = CropStream(self.train_shards, self.frames, self.batch, self.seed, rank, world)
        stream.first_step = self.trainer.global_step if self.trainer else self.first_step
        return DataLoader(stream, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        crops = [self.validation_shards.dialogue(i)[:, : self.frames] for i in range(min(16, len(self.validation_shards)))]
        return DataLoader([{"codes": torch.stack(crops[i : i + self.batch])} for i in range(0, len(crops), self.batch)],
                          batch_size=None)
