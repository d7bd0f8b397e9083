"""Lists of linear layers that serve the positions of the depth transformer, and the two ways checkpoints
store them.

Published files store the projections of an attention layer stacked, `in_proj_weight` [sets * out, in];
modules and fine-tuned files hold one matrix per set, `in_projs.{i}.weight`. Both load; `stacked_state_dict`
writes the first.

B batch, Q positions, D width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from duplex.model import passes

_STACKED = {
    "in_proj_weight": "in_projs.{}.weight",
    "in_proj.weight": "in_projs.{}.weight",
    "in_proj.lora_A.weight": "in_projs.{}.lora_A.weight",
    "in_proj.lora_B.weight": "in_projs.{}.lora_B.weight",
    "out_proj.weight": "out_projs.{}.weight",
    "out_proj.lora_A.weight": "out_projs.{}.lora_A.weight",
    "out_proj.lora_B.weight": "out_projs.{}.lora_B.weight",
}


class ProjectionList(nn.ModuleList):
    """Modules used by position: position q uses member `schedule[q]`, or q itself without a schedule."""

    def __init__(self, modules: Iterable[nn.Module], schedule: tuple[int, ...] | None = None) -> None:
        super().__init__(modules)
        self.schedule = schedule

    def at(self, position: int) -> nn.Module:
        """The module of one position."""
        if len(self) == 1:
            return self[0]
        return self[position if self.schedule is None else self.schedule[position]]

    def forward(self, x_BQD: Tensor) -> Tensor:
        """Every position through its own module: [B, Q, D] -> [B, Q, out]."""
        if len(self) == 1:
            return self[0](x_BQD)
        members = [self.at(q) for q in range(x_BQD.shape[1])]
        if passes.applies(x_BQD) and passes.stackable(members):
            return passes.each_linear(x_BQD, members)
        # unbind: the gradient of x_BQD[:, q] would be a whole tensor of zeros with one position filled, Q times.
        return torch.stack([m(x_BD) for m, x_BD in zip(members, x_BQD.unbind(1), strict=True)], 1)

    @staticmethod
    def accept_stacked(attention: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
        """Load hook of an attention module: splits stacked weights in place."""
        sets = len(attention.in_projs)
        for stacked, single in _STACKED.items():
            weight = state_dict.pop(prefix + stacked, None)
            if weight is None:
                continue
            if weight.shape[0] % sets:
                # Left under its own name: load_state_dict then reports it as unexpected, with the missing
                # ones.
                state_dict[prefix + stacked] = weight
                continue
            for i, part in enumerate(weight.unflatten(0, (sets, -1))):
                state_dict[prefix + single.format(i)] = part


def stacked_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state_dict` under the names of published files, readable by every implementation of the family."""
    result: dict[str, Tensor] = {}
    groups: dict[str, list[tuple[int, Tensor]]] = {}
    for key, value in state_dict.items():
        match = re.fullmatch(r"(.*self_attn\.)(in|out)_projs\.(\d+)\.weight", key)
        if match is None:
            result[key] = value
            continue
        name = match[1] + ("in_proj_weight" if match[2] == "in" else "out_proj.weight")
        groups.setdefault(name, []).append((int(match[3]), value))
    for name, members in groups.items():
        result[name] = torch.cat([value for _, value in sorted(members, key=lambda item: item[0])])
    return result
