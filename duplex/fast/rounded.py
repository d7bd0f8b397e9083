"""Rounded weights in a well-kept library's kernels: torchao's weight-only layers in a copy of the model.

The copy runs under the plain engine, and on CUDA under the recorded one. What is rounded is what the native schemes round: the
matrices of both transformers, the projections between them and the output heads. Embeddings with their projections, norms,
biases and auxiliary heads stay as they are and are shared with the caller's model, which is not changed.

    int8   one scale for each output; the library has no 8-bit kernel without its compiler and turns the weights to floats in each
           product, in the model's own type
    int4   scale and zero for 64 inputs; the product is in bfloat16, the one type for which these kernels are fast

torchao is optional (`pip install duplex-speech[quant]`).
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duplex.errors import ConfigError
from duplex.fast.packing import dense, version_of
from duplex.model.layers import TokenEmbedding
from duplex.model.lm import DuplexLM

GROUP, OUTPUTS = 64, 16
"""Inputs to one scale of 4 bits, and what the kernel for them wants the outputs to be a multiple of: matrices are filled up."""
PRODUCT = torch.bfloat16
"""Type of the products with 4 bits: the one that CUDA has a kernel for, and the only one that is fast on a CPU."""
WANTED = "torchao==0.14.1"
"""The version that is made for torch 2.9."""
_PACKINGS = {"cpu": "opaque", "cuda": "tile_packed_to_4d"}
_made: weakref.WeakKeyDictionary[DuplexLM, dict[str, tuple[tuple, DuplexLM]]] = weakref.WeakKeyDictionary()


def frame_linears(lm: DuplexLM) -> Iterator[tuple[str, nn.Linear]]:
    """Name and module of each matrix that the schemes round: all but those inside embeddings and auxiliary heads."""
    inside = {id(part) for module in lm.modules() if isinstance(module, TokenEmbedding) for part in module.modules()}
    exact = {id(head) for head in lm.extra_heads}
    for name, module in lm.named_modules():
        if isinstance(module, nn.Linear) and id(module) not in inside | exact:
            yield name, module


def rounded(model: DuplexLM, scheme: str) -> DuplexLM:
    """The copy of `model` with weights in "int8" or "int4", made at the first call and again when the weights have changed since.

    Raises ConfigError where torchao is missing, does not go with this torch, or has no kernel for the model's device.
    """
    known, version = _made.setdefault(model, {}), version_of(model)
    if scheme not in known or known[scheme][0] != version:
        known[scheme] = (version, _copy(model, scheme))
    return known[scheme][1]


class RoundedLinear(nn.Module):
    """A linear layer in torchao's bits. Its weight is a buffer: what the parameters tell, such as their type, stays true."""

    def __init__(self, layer: nn.Linear, scheme: str) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.extra, weight_OI = 0, dense(layer).detach()
        if scheme == "int4":
            self.extra = -self.in_features % GROUP
            weight_OI = F.pad(weight_OI, (0, self.extra, 0, -self.out_features % OUTPUTS)).to(PRODUCT)
        self.dtype = weight_OI.dtype
        self.register_buffer("weight", _round(weight_OI, scheme), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        given = F.pad(x, (0, self.extra)) if self.extra else x
        y = F.linear(given.to(self.dtype), self.weight)[..., : self.out_features].to(x.dtype)
        return y if self.bias is None else y + self.bias


def _round(weight_OI: Tensor, scheme: str) -> Tensor:
    device = weight_OI.device.type
    if scheme == "int4" and device not in _PACKINGS:
        raise ConfigError(f"backend torchao-int4: the model is on {device}; load it on cpu or cuda")
    holder = nn.Linear(*weight_OI.shape[::-1], bias=False, device="meta")
    holder.weight = nn.Parameter(weight_OI, requires_grad=False)
    try:
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

        # Its own settings for the compiler would be settings of the whole process.
        config: Any = Int8WeightOnlyConfig(set_inductor_config=False) if scheme == "int8" else Int4WeightOnlyConfig(
            group_size=GROUP, int4_packing_format=_PACKINGS[device], set_inductor_config=False)
        quantize_(holder, config)
    except (ImportError, TypeError, ValueError) as error:  # none, of another torch, of another interface, or for a newer device
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise ConfigError(f"backend torchao-{scheme}: torchao cannot be used ({reason}); pip install {WANTED} or choose the "
                          "backend 'naive'") from None
    return holder.weight.detach()


@torch.no_grad()
def _copy(model: DuplexLM, scheme: str) -> DuplexLM:
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}  # these are shared
    memo |= {id(value): {} for name, value in vars(model).items() if name == "_native_weights"}
    twin = copy.deepcopy(model, memo)
    for name, layer in list(frame_linears(twin)):
        parent, _, child = name.rpartition(".")
        if child not in ("lora_A", "lora_B"):  # an adapter is worked into the matrix that it belongs to
            setattr(twin.get_submodule(parent), child, RoundedLinear(layer, scheme))
    return twin
