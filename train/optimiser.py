"""AdamW with moments of their own for batches of text alone (arXiv:2410.00037, section 4.2), and the learning rate's course."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

_ASIDE = "text_only_"
SPEECH = "speech_only"
"""Key of the parameter groups that batches of text alone leave as they are."""


def warm_cosine(step: int, warmup: int, steps: int, final: float) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine that ends at ``final``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


class TwoMemoriesAdamW(torch.optim.AdamW):
    """AdamW whose running moments are kept twice: for ordinary batches, and for those of text alone.

    Text and speech have gradients of different sizes; one set of moments would scale each by the other's. Set ``text_only``
    before `step`. Groups with the key `SPEECH` (audio tables, the depth transformer) are left alone by a batch of text.
    """

    text_only = False

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step with the moments of the kind of batch that ``closure`` (or the caller) has computed gradients for."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.prepare()
        if not self.text_only:
            super().step()
            return loss
        params = []
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None if group.get(SPEECH) else p.grad
                params += [p] if p.grad is not None else []
        speech = {p: {k: v for k, v in self.state[p].items() if not k.startswith(_ASIDE)} for p in params}
        for p in params:
            self.state[p] = {k.removeprefix(_ASIDE): v for k, v in self.state[p].items() if k.startswith(_ASIDE)}
        super().step()
        for p in params:
            self.state[p] = speech[p] | {_ASIDE + k: v for k, v in self.state[p].items()}
        return loss

    def prepare(self) -> None:
        """Both sets of moments of every parameter, zero at first.

        They are there from the first step on, whichever kind of batch comes first: a distributed checkpoint is read into the
        entries that an optimiser has after its first step, and entries that came later would be lost without a word.
        """
        for group in self.param_groups:
            device = {"device": group["params"][0].device} if group["fused"] or group["capturable"] else {}
            for p in group["params"]:
                for prefix in ("",) if group.get(SPEECH) else ("", _ASIDE):
                    if prefix + "step" not in self.state[p]:
                        self.state[p] |= {prefix + "step": torch.zeros((), **device), prefix + "exp_avg": torch.zeros_like(p),
                                          prefix + "exp_avg_sq": torch.zeros_like(p)}
