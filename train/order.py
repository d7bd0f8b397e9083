"""In which order training samples come: a pure function, so that nothing has to be remembered to resume.

All samples of a run form one endless sequence of positions; every epoch is a fresh permutation of the dialogues. Batch ``step``
of rank ``r`` among ``world`` holds the positions ``(step * world + r) * batch`` and following, whatever ran before: a run that
resumes at step s, in the middle of an epoch or not, gets what an unbroken run would have got, and a run on another number of
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


def positions(step: int, rank: int, world: int, batch: int) -> range:
    """Positions of the samples of one rank's batch."""
    first = (step * world + rank) * batch
    return range(first, first + batch)


def batch_of(seed: int, step: int, rank: int, world: int, batch: int, size: int) -> list[tuple[int, int]]:
    """(epoch, dialogue) of each sample of one rank's batch."""
    return [(p // size, sample_index(seed, p, size)) for p in positions(step, rank, world, batch)]


def step_after(samples: int, world: int, batch: int) -> int:
    """The step at which a run on ``world`` ranks goes on after ``samples`` samples of another run: none is skipped.

    Where the samples do not fill whole steps the last ones, less than one step, come again.
    """
    return samples // (world * batch)
