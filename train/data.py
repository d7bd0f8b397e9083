"""Batches of token crops for the language model, in an order that can be resumed exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from train.shards import ShardSet, sample_index


class Source(Protocol):
    """An endless sequence of training samples that is a pure function of the position."""

    metadata: dict[str, str]

    def sample(self, position: int) -> Tensor:
        """int64 [K, frames]."""
        ...


class ShardSource:
    """Crops of encoded dialogues: every epoch visits each dialogue once, at a random place."""

    def __init__(self, shards: ShardSet, frames: int, seed: int):
        self.shards, self.frames, self.seed = shards, frames, seed
        self.metadata = shards.metadata

    def sample(self, position: int) -> Tensor:
        index = sample_index(self.seed, position, len(self.shards))
        return self.shards.crop(index, self.frames, np.random.default_rng((self.seed, 1, position)))


class MixedSource:
    """Two sources; a fixed pseudo-random ``share`` of the positions comes from the second."""

    def __init__(self, first: Source, second: Source, share: float, seed: int):
        self.first, self.second, self.share, self.seed = first, second, share, seed
        self.metadata = first.metadata

    def sample(self, position: int) -> Tensor:
        second = np.random.default_rng((self.seed, 3, position)).random() < self.share
        return (self.second if second else self.first).sample(position)


class SampleStream(IterableDataset):
    """Endless batches: batch number ``step`` holds samples ``(step * world + rank) * size …`` of one sequence.

    Yields {"codes": int64 [B, K, T], "sample": int64 [B]}. Setting ``first_step`` before iterating resumes exactly there.
    """

    def __init__(self, source: Source, batch: int, rank: int = 0, world: int = 1, first_step: int = 0):
        self.source, self.batch, self.rank, self.world, self.first_step = source, batch, rank, world, first_step

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        step = self.first_step
        while True:
            first = (step * self.world + self.rank) * self.batch
            positions = range(first, first + self.batch)
            yield {"codes": torch.stack([self.source.sample(p) for p in positions]), "sample": torch.tensor(positions)}
            step += 1


class DialogueData(L.LightningDataModule):
    """Training samples of a source, and the first frames of up to 16 dialogues of a folder of shards for validation."""

    def __init__(self, source: Source, validation: ShardSet, frames: int, batch: int):
        super().__init__()
        self.source, self.validation = source, validation
        self.frames, self.batch = frames, batch

    def train_dataloader(self) -> DataLoader:
        rank, world, step = 0, 1, 0
        if self.trainer:
            rank, world, step = self.trainer.global_rank, self.trainer.world_size, self.trainer.global_step
        return DataLoader(SampleStream(self.source, self.batch, rank, world, step), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        crops = [self.validation.dialogue(i)[:, : self.frames] for i in range(min(16, len(self.validation)))]
        batches = [{"codes": torch.stack(crops[i : i + self.batch])} for i in range(0, len(crops), self.batch)]
        return DataLoader(batches, batch_size=None)
