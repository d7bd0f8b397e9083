"""Low-rank adapters (arXiv:2106.09685) for any linear layer of a model, put on from outside and by name.

An adapted layer computes `W x + scaling * B A x` with A [rank, in] and B [out, rank]. It stays a `Linear`
under the same parameter names, so that the base weights keep the published keys and the adapter adds
`{layer}.lora_A.weight` and `{layer}.lora_B.weight`, as adapters for the Moshi family do.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LoRALinear(nn.Linear):
    """The linear layer `base`, sharing its weights, plus an adapter that starts as zero."""

    def __init__(self, base: nn.Linear, rank: int, scaling: float) -> None:
        nn.Module.__init__(self)  # Linear's own would allocate a second weight matrix
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.rank, self.scaling = rank, scaling
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_A = nn.Linear(self.in_features, rank, bias=False, **like)
        self.lora_B = nn.Linear(rank, self.out_features, bias=False, **like)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(x, self.weight, self.bias) + self.scaling * self.lora_B(self.lora_A(x))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}, scaling={self.scaling}"


def add_lora(
    model: nn.Module, rank: int | dict[str, int], scaling: float, names: Collection[str] | None = None
) -> list[str]:
    """Adapts the linear layers called `names` (all of them when None) in place; returns their names in order.

    `rank` is one for all or one per name. Layers that are adapted already stay as they are.
    """
    adapted = []
    for name, layer in list(model.named_modules()):
        inside_adapter = name.rpartition(".")[2] in ("lora_A", "lora_B")
        if not isinstance(layer, nn.Linear) or isinstance(layer, LoRALinear) or inside_adapter:
            continue
        if names is None or name in names:
            _replace(model, name, LoRALinear(layer, rank if isinstance(rank, int) else rank[name], scaling))
            adapted.append(name)
    return adapted


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """All adapted layers of `model` with their names."""
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, LoRALinear))


def merged_weight(weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    """`W + scaling * B A` [out, in], computed in float32 whatever the types, in the type of `weight`."""
    return (weight.float() + scaling * (lora_B.float() @ lora_A.float())).to(weight.dtype)


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Works every adapter into its layer's weights, in place, and takes the adapters off."""
    for name, layer in list(adapted_layers(model)):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight, plain.bias = layer.weight, layer.bias
        merged = merged_weight(layer.weight, layer.lora_A.weight, layer.lora_B.weight, layer.scaling)
        plain.weight.copy_(merged)
        _replace(model, name, plain)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The adapters alone: `{name}.lora_A.weight` [rank, in] and `{name}.lora_B.weight` [out, rank]."""
    return {
        f"{name}.{part}.weight": getattr(layer, part).weight.detach()
        for name, layer in adapted_layers(model) for part in ("lora_A", "lora_B")
    }


def base_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of `model` without its adapters."""
    adapters = lora_state_dict(model)
    return {key: value for key, value in model.state_dict().items() if key not in adapters}


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
