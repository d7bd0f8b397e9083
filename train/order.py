"""In which order training samples come: a pure function, so that nothing has to be remembered to resume.

All samples of a run form one endless sequence of positions; every epoch is a fresh permutation of the dialogues. Optimiser step
``s`` takes the positions ``s * batch … (s + 1) * batch - 1``, dealt out first to the micro-batches, then to the ranks. A run that
resumes at a step, in the middle of an epoch or not, gets what an unbroken run would have got, and a run on another number of
machines sees the same sequence.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    order = np.random.default_rng((seed, epoch)).permutation(size)
    order.setflags(write=False)  # it is shared
    return order


def sample_index(seed: int, position: int, size: int) -> int:
    """Which of ``size`` dialogues is sample number ``position`` of the endless sequence."""
    epoch, offset = divmod(position, size)
    return int(_permutation(seed, epoch, size)[offset])


def positions(step: int, batch: int, rank: int = 0, world: int = 1, micro: int = 0, accumulate: int = 1) -> range:
    """Positions of one micro-batch of one rank; ``batch`` is that of the whole step, a multiple of ``world * accumulate``."""
    size = batch // (world * accumulate)
    first = step * batch + (micro * world + rank) * size
    return range(first, first + size)


def batch_of(seed: int, step: int, size: int, batch: int, rank: int = 0, world: int = 1) -> list[tuple[int, int]]:
    """(epoch, dialogue) of each sample of one rank's part of a step, over ``size`` dialogues."""
    return [(p // size, sample_index(seed, p, size)) for p in positions(step, batch, rank, world)]


def step_after(samples: int, batch: int) -> int:
    """The step at which a run with another batch goes on after ``samples`` samples: none is skipped.

    Where the samples do not fill whole steps the last ones, less than one step, come again.
    """
    return samples // batch
