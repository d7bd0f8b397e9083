"""Batches of token crops for the language model, in an order that can be resumed exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from train.order import positions, sample_index
from train.shards import ShardSet
from train.together import place_of

VALIDATION = 16  # dialogues


class Source(Protocol):
    """An endless sequence of training samples that is a pure function of the position."""

    metadata: dict[str, str]

    def sample(self, position: int) -> Tensor:
        """int64 [K, frames]."""
        ...


class ShardSource:
    """Crops of encoded dialogues: every epoch visits each dialogue once, at a random place.

    ``count``: of the first so many dialogues alone; 0 for all.
    """

    def __init__(self, shards: ShardSet, frames: int, seed: int, count: int = 0):
        self.shards, self.frames, self.seed = shards, frames, seed
        self.count = min(count or len(shards), len(shards))
        self.metadata = shards.metadata

    def sample(self, position: int) -> Tensor:
        index = sample_index(self.seed, position, self.count)
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
    """Endless batches of one sequence of samples, shared by all processes.

    Optimiser step s uses samples ``s * batch … (s + 1) * batch - 1``, whatever the number of processes and micro-batches:
    they are dealt out in order, first to the micro-batches, then to the ranks. Yields {"codes": int64 [B, K, T], "sample":
    int64 [B], "text_only": bool []}. ``first_step`` is where a resumed run goes on.
    """

    def __init__(self, source: Source, batch: int, rank: int = 0, world: int = 1, first_step: int = 0, accumulate: int = 1,
                 text: Source | None = None, text_share: float = 0.0, seed: int = 0):
        self.source, self.batch, self.rank, self.world, self.first_step = source, batch, rank, world, first_step
        self.accumulate, self.text, self.text_share, self.seed = accumulate, text, text_share, seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        step = self.first_step
        while True:
            # All processes agree, so that a step never mixes the two kinds.
            alone = self.text is not None and np.random.default_rng((self.seed, 4, step)).random() < self.text_share
            source = self.text if alone and self.text is not None else self.source
            for micro in range(self.accumulate):
                mine = positions(step, self.batch, self.rank, self.world, micro, self.accumulate)
                yield {"codes": torch.stack([source.sample(p) for p in mine]), "sample": torch.tensor(mine),
                       "text_only": torch.tensor(alone)}
            step += 1


class DialogueData(L.LightningDataModule):
    """Training samples of a source, and the first frames of up to 16 samples held out for validation.

    ``batch`` is that of one optimiser step over all processes. ``text`` is mixed in for ``text_share`` of the steps.
    ``watched`` are the dialogues for rollouts, those of the validation where it is a folder of shards.
    """

    def __init__(self, source: Source, validation: ShardSet | Source, frames: int, batch: int, *, text: Source | None = None,
                 text_share: float = 0.0, seed: int = 0, watched: ShardSet | None = None):
        super().__init__()
        self.watched = validation if isinstance(validation, ShardSet) else watched
        self.source, self.validation, self.text, self.text_share = source, validation, text, text_share
        self.frames, self.batch, self.seed = frames, batch, seed

    def train_dataloader(self) -> DataLoader:
        rank, world, step = place_of(self.trainer)
        accumulate = self.trainer.accumulate_grad_batches if self.trainer else 1
        stream = SampleStream(self.source, self.batch, rank, world, step, accumulate, self.text, self.text_share, self.seed)
        return DataLoader(stream, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        """The same batches in every process: their likelihoods are sums, and summed once."""
        if isinstance(self.validation, ShardSet):
            crops = [self.validation.dialogue(i)[:, : self.frames] for i in range(min(VALIDATION, len(self.validation)))]
        else:
            count = min(VALIDATION, len(self.watched)) if self.watched is not None else VALIDATION
            crops = [self.validation.sample(i)[:, : self.frames] for i in range(count)]
        size = min(self.batch, VALIDATION)
        groups = [crops[i : i + size] for i in range(0, len(crops), size)]
        return DataLoader([{"codes": padded(group)} for group in groups], batch_size=None)


def padded(crops: list[Tensor]) -> Tensor:
    """Crops [K, T'] as one batch int64 [B, K, T], shorter ones filled up with -1."""
    longest = max(c.shape[1] for c in crops)
    return torch.stack([torch.nn.functional.pad(c, (0, longest - c.shape[1]), value=-1) for c in crops])
