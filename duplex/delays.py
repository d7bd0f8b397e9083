"""The delay rule: row k of frame t is processed at step t + delay[k] (arXiv:2410.00037, section 3.4.3).

Two forms of the one rule. `DelayPattern` shifts whole sequences, for training; `DelayLine` is a ring that
takes and gives one frame at a time, for streaming. `step_of` is the definition that both use.

B batch, K rows, T frames, S steps, R ring slots, V any number of trailing dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duplex.errors import ConfigError
from duplex.streams import UNGENERATED


def step_of(frame, delay):
    """Step at which a row with `delay` processes `frame`; for integers and for integer tensors."""
    return frame + delay


@dataclass(frozen=True)
class DelayPattern:
    """The rule for sequences. `delays[k]` is the delay of row k in frames."""

    delays: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.delays or min(self.delays) < 0:
            raise ConfigError(f"delays: need at least one row and no negative value, got {list(self.delays)}")

    @property
    def max_delay(self) -> int:
        return max(self.delays)

    def rows(self, rows: slice) -> DelayPattern:
        """The pattern of some of the rows."""
        return DelayPattern(self.delays[rows])

    def apply(self, codes_BKT: Tensor, initial_K: Tensor | Sequence[int]) -> Tensor:
        """`[B, K, T + max_delay]`: rows shifted to their steps; `initial[k]` fills what row k leaves."""
        B, K, T = codes_BKT.shape
        initial_K = torch.as_tensor(initial_K, dtype=codes_BKT.dtype, device=codes_BKT.device)
        delayed_BKS = initial_K.view(1, K, 1).repeat(B, 1, T + self.max_delay)
        for k, delay in enumerate(self.delays):
            delayed_BKS[:, k, step_of(0, delay) : step_of(T, delay)] = codes_BKT[:, k]
        return delayed_BKS

    def undo(self, delayed_BKSV: Tensor) -> Tensor:
        """The inverse of `apply`: `[B, K, S - max_delay, ...]`, for values that belong to steps."""
        T = delayed_BKSV.shape[2] - self.max_delay
        rows = [delayed_BKSV[:, k, step_of(0, d) : step_of(T, d)] for k, d in enumerate(self.delays)]
        return torch.stack(rows, dim=1)

    def align(self, delayed_BKTV: Tensor, fill: float) -> tuple[Tensor, Tensor]:
        """`delayed` of T steps brought back to T frames, and the mask `[B, K, T]` of the frames reached.

        The last `delays[k]` frames of row k lie beyond the last step: they hold `fill` and the mask is False.
        """
        B, K, T = delayed_BKTV.shape[:3]
        mask_KT = torch.ones(K, T, dtype=torch.bool, device=delayed_BKTV.device)
        if not any(self.delays):
            return delayed_BKTV, mask_KT.expand(B, K, T).clone()  # spares a copy of the logits
        rows = []
        for k, delay in enumerate(self.delays):
            reached = max(T - delay, 0)
            mask_KT[k, reached:] = False
            row = delayed_BKTV[:, k, T - reached :]
            if reached < T:
                missing = row.new_full((B, T - reached, *row.shape[2:]), fill)
                row = torch.cat([row, missing], dim=1)
            rows.append(row)
        return torch.stack(rows, dim=1), mask_KT.expand(B, K, T).clone()


@dataclass
class DelayLine:
    """The rule for one frame at a time: a ring of the steps in flight, one offset per batch row.

    The ring is a plain value: `clone` copies it, `reset` empties some batch rows of it. Writes happen in
    place. Each ring row spans at most `max_delay + 2` steps, from the oldest frame that may still be read to
    the newest that may be written ahead, so slots never collide.
    """

    delays_K: Tensor
    """int64 [K]: delay of each row."""
    ring_BKR: Tensor
    """int64 [B, K, R]: token of each step modulo R; UNGENERATED where there is none."""

    @classmethod
    def empty(cls, delays: Sequence[int], batch_size: int, device: torch.device | str = "cpu") -> DelayLine:
        delays_K = torch.tensor(list(delays), dtype=torch.long, device=device)
        shape = (batch_size, len(delays), max(delays) + 2)
        return cls(delays_K, torch.full(shape, UNGENERATED, dtype=torch.long, device=device))

    def clone(self) -> DelayLine:
        return DelayLine(self.delays_K, self.ring_BKR.clone())

    def reset(self, mask_B: Tensor) -> None:
        """Empties the batch rows where `mask` is True."""
        self.ring_BKR[mask_B] = UNGENERATED

    def _slots(self, step_BK: Tensor) -> Tensor:
        return (step_BK % self.ring_BKR.shape[2])[..., None]

    def write_step(self, rows: slice, step_B: Tensor, tokens_BK: Tensor, where_BK: Tensor) -> None:
        """Puts `tokens` on step `step` of `rows`, leaving elements where `where` is False as they are."""
        ring = self.ring_BKR[:, rows]
        slots = self._slots(step_B[:, None].expand_as(tokens_BK))
        ring.scatter_(2, slots, torch.where(where_BK[..., None], tokens_BK[..., None], ring.gather(2, slots)))

    def write_frame(self, rows: slice, frame_B: Tensor, tokens_BK: Tensor, where_BK: Tensor) -> None:
        """Puts the tokens of one frame on the step of each of `rows`, ahead of time for delayed rows."""
        ring = self.ring_BKR[:, rows]
        slots = self._slots(step_of(frame_B[:, None], self.delays_K[rows]))
        ring.scatter_(2, slots, torch.where(where_BK[..., None], tokens_BK[..., None], ring.gather(2, slots)))

    def read_step(self, step_B: Tensor) -> Tensor:
        """[B, K]: what each row holds on step `step`."""
        slots = self._slots(step_B[:, None].expand(-1, self.ring_BKR.shape[1]))
        return self.ring_BKR.gather(2, slots)[..., 0]

    def read_frame(self, frame_B: Tensor) -> Tensor:
        """[B, K]: the time-aligned tokens of one frame."""
        return self.ring_BKR.gather(2, self._slots(step_of(frame_B[:, None], self.delays_K)))[..., 0]
