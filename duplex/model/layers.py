"""Layers shared by the temporal and the depth transformer. Parameter names are those of Moshi-family
checkpoints.

Shapes: B batch, T positions, D model width, H query heads, G key/value heads, E head width, F feed-forward
width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duplex.model import passes


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learnt scale `alpha` (1, 1, D), computed in float32 if `float32`."""

    def __init__(self, dim: int, eps: float, float32: bool) -> None:
        super().__init__()
        self.eps = eps
        self.float32 = float32
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        if passes.applies(x):
            return passes.RMSNorm.apply(x, self.alpha.view(-1), self.eps)
        y = x.float() if self.float32 else x
        alpha = self.alpha.view(-1).to(y.dtype)
        return F.rms_norm(y, alpha.shape, alpha, self.eps).to(x.dtype)


class LayerNormFloat32(nn.LayerNorm):
    """Layer norm computed in float32 whatever the type of its input."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


def make_norm(kind: str, dim: int) -> nn.Module:
    """The norm that a configuration calls `kind`."""
    if kind == "layer_norm":
        return nn.LayerNorm(dim, eps=1e-5)
    if kind == "layer_norm_f32":
        return LayerNormFloat32(dim, eps=1e-8)
    if kind == "rms_norm":
        return RMSNorm(dim, eps=1e-5, float32=False)
    if kind == "rms_norm_f32":
        return RMSNorm(dim, eps=1e-8, float32=True)
    raise ValueError(kind)


class LayerScale(nn.Module):
    """Learnt scale of a residual branch, per channel."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.scale = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def make_scale(initial: float | None, dim: int) -> nn.Module:
    """A `LayerScale` that starts at `initial`, or nothing for None."""
    return nn.Identity() if initial is None else LayerScale(dim, initial)


class TokenEmbedding(nn.Module):
    """Embedding of token ids in which negative ids give exactly zero.

    Optional: a layer norm on the vectors, an inner width `low_rank` followed by a projection, or `demux`: ids
    that carry two tokens, `second * n + first` for n entries, where `second` counts from 1 and 0 means none.
    """

    def __init__(
        self, entries: int, dim: int, norm: bool = False, low_rank: int | None = None, demux: bool = False
    ) -> None:
        super().__init__()
        inner = low_rank or dim
        self.weight = nn.Parameter(torch.empty(entries, inner))
        self.norm = nn.LayerNorm(inner, eps=1e-5) if norm else None
        self.low_rank = nn.Linear(inner, dim, bias=False) if low_rank else None
        self.demux = demux
        if demux:
            self.out1 = nn.Linear(inner, dim, bias=False)
            self.out2 = nn.Linear(inner, dim, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., dim]."""
        return self.lookup(ids.clamp(min=0), (ids >= 0)[..., None].to(self.weight.dtype))

    def lookup(self, ids: Tensor, known: Tensor | None = None) -> Tensor:
        """As `forward` for ids that are not negative; `known` [..., 1] is 1 to keep and 0 to give zero."""
        if self.demux:
            first, second = ids % len(self.weight), ids // len(self.weight) - 1
            y = self.out1(F.embedding(first, self.weight))
            other = self.out2(F.embedding(second.clamp(min=0), self.weight))
            y = y + torch.where((second >= 0)[..., None], other, 0.0)
            return y if known is None else y * known
        y = F.embedding(ids, self.weight)
        if self.norm is not None:
            y = self.norm(y)
        if known is not None:
            y = y * known
        return y if self.low_rank is None else self.low_rank(y)


_ACTIVATIONS = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "leaky_relu": F.leaky_relu,
    "elu": F.elu, "gelu": F.gelu, "silu": F.silu, "mish": F.mish, "softsign": F.softsign,
    "identity": lambda x: x,
}


class GatedFeedForward(nn.Module):
    """`out(activation(a) * b)` where a and b are the halves of `in(x)`."""

    def __init__(self, dim: int, width: int, activation: str) -> None:
        super().__init__()
        # Three matrices instead of two: about 2/3 of the width keeps the parameter count; 21/8 is 2/3 of 4
        # rounded to a multiple of hardware-friendly sizes, and what published models with width 4 * dim use.
        hidden = 21 * dim // 8 if width == 4 * dim else 2 * width // 3
        self.activation = _ACTIVATIONS[activation]
        self.linear_in = nn.Linear(dim, 2 * hidden, bias=False)
        self.linear_out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_out(self.gate(self.linear_in(x)))

    def gate(self, both: Tensor) -> Tensor:
        """`activation(a) * b`: [..., 2 F] -> [..., F]."""
        if self.activation is F.silu and passes.applies(both):
            return passes.GatedSilu.apply(both)
        gate, value = both.chunk(2, dim=-1)
        return self.activation(gate) * value


class Rotation(NamedTuple):
    """Rotary position embedding of some positions: pairs of channels turned by angles that grow with time."""

    cos: Tensor
    """float32 [..., E]: cosine of the angle of each channel."""
    sin: Tensor
    """float32 [..., E]: sine, negative for the first channel of each pair."""
    interleaved: bool
    """The pairs are neighbouring channels; else channel e belongs with channel e + E / 2."""

    @classmethod
    def at(cls, positions: Tensor, head_dim: int, max_period: float, interleaved: bool) -> Rotation:
        """The rotation for integer `positions` [...]."""
        steps = torch.arange(head_dim // 2, device=positions.device, dtype=torch.float32)
        angles = positions.float()[..., None] * torch.exp(steps * (-math.log(max_period) * 2 / head_dim))
        cos, sin = torch.cos(angles), torch.sin(angles)
        dim = -1 if interleaved else -2
        cos, sin = (torch.stack(pair, dim).flatten(-2) for pair in ((cos, cos), (-sin, sin)))
        return cls(cos, sin, interleaved)

    def unsqueeze(self, dim: int) -> Rotation:
        """The same rotation with one more dimension to broadcast over."""
        return Rotation(self.cos.unsqueeze(dim), self.sin.unsqueeze(dim), self.interleaved)

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., E] turned, in float32."""
        return self.turn(x)

    def turn(self, x: Tensor) -> Tensor:
        """The same under a name: torch.compile cannot follow a call of a tuple."""
        if self.interleaved and passes.applies(x):
            return passes.turn_pairs(x, self.cos, self.sin)
        pairs, dim = ((-1, 2), -1) if self.interleaved else ((2, -1), -2)
        y = x.float()
        partner = y.unflatten(-1, pairs).flip(dim).flatten(-2)
        return torch.addcmul(y * self.cos, partner, self.sin).to(x.dtype)


def sinusoids(positions: Tensor, dim: int, max_period: float, dtype: torch.dtype) -> Tensor:
    """Sinusoidal embedding [..., dim] of integer `positions` [...]: cosines, then sines."""
    half = dim // 2
    exponents = torch.arange(half, device=positions.device, dtype=dtype) / (half - 1)
    phase = positions.to(dtype)[..., None] / max_period**exponents
    return torch.cat([torch.cos(phase), torch.sin(phase)], -1)


def split_heads(
    projected: Tensor, heads: int, kv_heads: int, rotation: Rotation | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, H, T, E], keys and values [B, G, T, E] from the joint projection [B, T, (H + 2 G) E].

    Queries and keys are turned by `rotation`.
    """
    E = projected.shape[-1] // (heads + 2 * kv_heads)
    qk, v = projected.unflatten(-1, (-1, E)).transpose(1, 2).split([heads + kv_heads, kv_heads], dim=1)
    if rotation is not None:
        qk = rotation.turn(qk)
    q, k = qk.split([heads, kv_heads], dim=1)
    return q, k, v


def split_step(
    projected: Tensor, heads: int, kv_heads: int, rotation: Rotation | None
) -> tuple[Tensor, Tensor]:
    """`split_heads` of one position [B, (H + 2 G) E]: queries [B, H, 1, E]; keys above values [B, 2 G, E]."""
    x_BHE = projected.unflatten(-1, (heads + 2 * kv_heads, -1))
    if rotation is not None:
        turned = heads + kv_heads
        x_BHE = torch.cat([rotation.turn(x_BHE[:, :turned]), x_BHE[:, turned:]], 1)
    return x_BHE[:, :heads, None], x_BHE[:, heads:]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False,
           window: int | None = None) -> Tensor:
    """Softmax attention [B, H, T, E] -> [B, T, H * E]; groups of query heads share a key/value head.

    With `causal`, each of the T positions sees those up to itself, of which the last `window` where that is given.
    """
    repeat = q.shape[1] // k.shape[1]
    if repeat > 1:
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
    if causal and q.shape[2] <= passes.LONGEST and passes.applies(q):
        return passes.attend_in_blocks(q, k, v, window)
    if window is not None:
        mask, causal = recent(q.shape[2], window, q.device), False
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return out.transpose(1, 2).flatten(2)


def recent(T: int, window: int, device: torch.device) -> Tensor:
    """bool [T, T]: whether a position sees another, which is itself or one of the `window` - 1 before it."""
    positions_T = torch.arange(T, device=device)
    behind_TT = positions_T[:, None] - positions_T
    return (behind_TT >= 0) & (behind_TT < window)


def init_weights(module: nn.Module) -> None:
    """Fresh weights: truncated normal with deviation 1 / sqrt(inputs), zero biases, unit norms.

    Unlike the reference package this covers the attention projections and the depth layers too, whose
    framework default has three times less variance.
    """
    for m in module.modules():
        if isinstance(m, (nn.Linear, TokenEmbedding)):
            deviation = m.weight.shape[1] ** -0.5
            nn.init.trunc_normal_(m.weight, std=deviation, a=-3 * deviation, b=3 * deviation)
            if getattr(m, "bias", None) is not None:
                nn.init.zeros_(m.bias)
