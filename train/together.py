"""Sums and means over the processes that train together; with one process, the value itself.

Every process must call these the same number of times with values of the same shape: a process that asks for one sum less than
the others leaves them waiting for ever. So nothing here depends on what a batch happens to contain.
"""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor
from torch import distributed as dist

from duplex.loss import NLL


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def place_of(trainer: L.Trainer | None) -> tuple[int, int, int]:
    """A trainer's number of this process, number of processes, and step; (0, 1, 0) without one."""
    return (trainer.global_rank, trainer.world_size, trainer.global_step) if trainer else (0, 1, 0)


def sum_of_all(values: Tensor) -> Tensor:
    """Sum over the processes, without gradients."""
    if processes() == 1:
        return values
    values = values.detach().clone()
    dist.all_reduce(values)
    return values


def mean_of_all(values: Tensor) -> Tensor:
    """Mean over the processes, without gradients."""
    return sum_of_all(values) / processes()


def rows_of_all(rows: Tensor) -> Tensor:
    """[N, …] of every process, of the same shape in each, one below the other in their order: [processes * N, …]."""
    if processes() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(processes())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def nll_of_all(nll: NLL) -> NLL:
    """Likelihoods of all processes' tokens, also where one of them has no token of some kind."""
    names = list(nll.sums)
    both = sum_of_all(torch.stack([nll.sums[n].double() for n in names] + [nll.counts[n].double() for n in names]))
    return NLL(dict(zip(names, both[: len(names)], strict=True)), dict(zip(names, both[len(names) :], strict=True)))
