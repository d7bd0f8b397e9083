"""AdamW with moments of their own for batches of text alone (arXiv:2410.00037, section 4.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch

_ASIDE = "text_only_"


class TwoMemoriesAdamW(torch.optim.AdamW):
    """AdamW whose running moments are kept twice: for ordinary batches, and for those of text alone.

    Text and speech have gradients of different sizes; one set of moments would scale each by the other's. Set ``text_only``
    before `step`. A parameter whose gradient is all zero in a text batch (audio tables, the depth transformer) is left alone.
    """

    text_only = False

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step with the moments of the kind of batch that ``closure`` (or the caller) has computed gradients for."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.text_only:
            super().step()
            return loss
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p in params:
            if not p.grad.any():
                p.grad = None
        params = [p for p in params if p.grad is not None]
        speech = {p: {k: v for k, v in self.state[p].items() if not k.startswith(_ASIDE)} for p in params}
        for p in params:
            self.state[p] = {k.removeprefix(_ASIDE): v for k, v in self.state[p].items() if k.startswith(_ASIDE)}
        super().step()
        for p in params:
            self.state[p] = speech[p] | {_ASIDE + k: v for k, v in self.state[p].items()}
        return loss
