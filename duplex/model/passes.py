"""The same functions in fewer passes over memory, for training on a CPU.

A small model trained there spends most of a step outside its matrix products, in elementwise operations that wait for
memory and in many small calls. `applies` says when the modules use these forms: only for tensors on the CPU that gradients
flow to. Inference and accelerators keep the plain ones, which a compiler can fuse. Results are equal up to rounding.

Shapes: B batch, T frames, N rows, Q positions, D width, H heads, E head width, F feed-forward width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BLOCK = 128
LONGEST = 1024
"""Frames up to which `attend_in_blocks` is worth the memory of its attention weights."""
FEW = 1.0
"""Rows for each input, or ids for each entry, up to which weights are used where they lie and not gathered in one tensor."""


def applies(x: Tensor) -> bool:
    """True where `x` is on the CPU, gradients flow to it and no compiler is looking."""
    return (torch.is_grad_enabled() and x.requires_grad and x.device.type == "cpu" and x.dtype == torch.float32
            and not torch.compiler.is_compiling())


def stackable(linears: Sequence[nn.Module]) -> bool:
    """True where `each_linear` can serve all of them: plain linear layers (no adapters) of one shape without bias."""
    first = linears[0]
    return all(type(m) is nn.Linear and m.bias is None and m.weight.shape == first.weight.shape for m in linears)


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """Causal softmax attention [B, H, T, E] -> [B, T, H * E]: plain products, each block of queries with the keys that one of
    them sees, which are the last ``window`` positions where that is given. The framework's kernel for CPUs takes about twice
    as long here, and for the depth transformer's few positions more.
    """
    B, H, T, E = q.shape
    q, k, v = (q * E**-0.5).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    hidden_TT = torch.full((T, T), -math.inf)
    hidden_TT = hidden_TT.triu(1) if window is None else hidden_TT.triu(1) + hidden_TT.tril(-window)
    blocks = []
    for first in range(0, T, _BLOCK):
        to = min(first + _BLOCK, T)
        since = 0 if window is None else max(0, first - window + 1)
        scores = torch.baddbmm(hidden_TT[first:to, since:to], q[:, first:to], k[:, since:to].mT)
        blocks.append(scores.softmax(-1) @ v[:, since:to])
    out = blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)
    return out.unflatten(0, (B, H)).transpose(1, 2).flatten(2)


def turn_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotation of neighbouring channels: each pair of `x` [..., E] is a complex number times e^(i angle).

    `cos` and `sin` [..., E] as in `layers.Rotation`.
    """
    angle = torch.complex(cos[..., ::2], sin[..., 1::2])
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * angle).flatten(-2)


def each_linear(x_NQD: Tensor, linears: Sequence[nn.Linear]) -> Tensor:
    """Position q through its own layer: [N, Q, D] -> [N, Q, out].

    In one batched product where there are more rows than inputs; with fewer, laying the weights side by side, and their
    gradients apart again, would move more memory than the products do.
    """
    if x_NQD.shape[0] <= FEW * x_NQD.shape[2]:
        return torch.stack([F.linear(x_ND, m.weight) for m, x_ND in zip(linears, x_NQD.unbind(1), strict=True)], 1)
    return torch.bmm(x_NQD.transpose(0, 1), torch.stack([m.weight for m in linears]).mT).transpose(0, 1)


def sum_of_embeddings(ids_BKT: Tensor, tables: Sequence[Tensor]) -> Tensor:
    """Sum over rows of row k's entry of table k, nothing for negative ids: [B, K, T] -> [B, T, D].

    One lookup in all tables laid end to end, or in each where they hold far more entries than are looked up.
    """
    if ids_BKT.numel() <= FEW * sum(len(table) for table in tables):
        known = (ids_BKT >= 0).float().unbind(1)
        rows = zip(ids_BKT.clamp(min=0).unbind(1), known, tables, strict=True)
        return torch.stack([F.embedding(ids_BT, table) * k_BT[..., None] for ids_BT, k_BT, table in rows]).sum(0)
    first_K = torch.tensor([0, *(len(table) for table in tables[:-1])]).cumsum(0)
    bags_NK = (ids_BKT.clamp(min=0) + first_K[:, None]).transpose(1, 2).flatten(0, 1)
    known_NK = (ids_BKT >= 0).transpose(1, 2).flatten(0, 1).float()
    sums_ND = F.embedding_bag(bags_NK, torch.cat(list(tables)), mode="sum", per_sample_weights=known_NK)
    return sums_ND.unflatten(0, (ids_BKT.shape[0], -1))


class GatedSilu(torch.autograd.Function):
    """`silu(a) * b` where a and b are the halves of `x` [..., 2 F]; gradients are written into one tensor."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        """[..., 2 F] -> [..., F]."""
        gate, value = x.chunk(2, -1)
        act = F.silu(gate)
        ctx.save_for_backward(x, act)
        return act * value

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        """Gradient of `x`."""
        x, act = ctx.saved_tensors
        gate, value = x.chunk(2, -1)
        out = torch.empty_like(x)
        d_gate, d_value = out.chunk(2, -1)
        torch.mul(grad, act, out=d_value)
        torch.ops.aten.silu_backward.grad_input(grad * value, gate, grad_input=d_gate)
        return out


class RMSNorm(torch.autograd.Function):
    """`x / sqrt(mean(x^2) + eps) * alpha` over the last dimension."""

    @staticmethod
    def forward(ctx, x: Tensor, alpha: Tensor, eps: float) -> Tensor:
        """x [..., D], alpha [D] -> [..., D]."""
        D = x.shape[-1]
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = (norm * norm / D + eps).rsqrt_()
        y = x * inverse
        ctx.save_for_backward(y, inverse, alpha)
        return y * alpha

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of `x` and `alpha`."""
        y, inverse, alpha = ctx.saved_tensors
        product = grad * y
        d_alpha = product.flatten(0, -2).sum(0)
        inner = (product @ alpha)[..., None] / y.shape[-1]
        dx = torch.addcmul(grad * alpha, y, inner, value=-1)
        return dx.mul_(inverse), d_alpha, None
