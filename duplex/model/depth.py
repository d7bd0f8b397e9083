"""The depth transformer: within one frame, one position per predicted codebook.

Position q sees the frame's temporal vector and the token of the row before it (text for q = 0), attends to
the positions up to q, and may have weights of its own (arXiv:2410.00037, section 3.4.1).

Shapes: N frames taken as a batch, Q positions, D width, H query heads, G key/value heads, E head width, L
layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from duplex.config import LMConfig
from duplex.model.layers import (
    GatedFeedForward,
    attend,
    make_norm,
    make_scale,
    rotary_angles,
    rotate,
    sinusoids,
    split_heads,
)
from duplex.model.projections import ProjectionList


@dataclass
class DepthCache:
    """Keys and values of the positions of the present frame: scratch space, nothing outlives the frame."""

    keys_LNGQE: Tensor
    values_LNGQE: Tensor


class DepthAttention(nn.Module):
    """Multi-head self-attention over the positions of one frame."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        dim, self.heads = config.depformer_dim, config.depformer_num_heads
        self.kv_heads = self.heads // config.depformer_kv_repeat
        out = (self.heads + 2 * self.kv_heads) * (dim // self.heads)
        sets, schedule = config.depth_weight_sets, config.depformer_weights_per_step_schedule
        self.interleaved = config.depformer_pos_emb != "rope_concat"
        self.in_projs = ProjectionList((nn.Linear(dim, out, bias=False) for _ in range(sets)), schedule)
        self.out_projs = ProjectionList((nn.Linear(dim, dim, bias=False) for _ in range(sets)), schedule)
        self.register_load_state_dict_pre_hook(ProjectionList.accept_stacked)

    def _heads(self, projected: Tensor, angles) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = split_heads(projected, self.heads, self.kv_heads)
        if angles is not None:
            q, k = rotate(q, angles, self.interleaved), rotate(k, angles, self.interleaved)
        return q, k, v

    def forward(self, x_NQD: Tensor, angles) -> Tensor:
        q, k, v = self._heads(self.in_projs(x_NQD), angles)
        return self.out_projs(attend(q, k, v, causal=True))

    def step(self, x_N1D: Tensor, angles, position: int, keys_NGQE: Tensor, values_NGQE: Tensor) -> Tensor:
        q, k, v = self._heads(self.in_projs.at(position)(x_N1D), angles)
        keys_NGQE[:, :, position], values_NGQE[:, :, position] = k[:, :, 0], v[:, :, 0]
        seen = slice(0, position + 1)
        return self.out_projs.at(position)(attend(q, keys_NGQE[:, :, seen], values_NGQE[:, :, seen]))


class DepthLayer(nn.Module):
    """Pre-norm attention and feed-forward, each on a residual branch, with weights per position."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        dim, kind = config.depformer_dim, config.depformer_gating
        width = config.depformer_dim_feedforward
        width = int(config.hidden_scale * dim) if width is None else width
        self.per_position = config.depformer_weights_per_step
        self.gated = kind != "none"
        self.self_attn = DepthAttention(config)
        self.norm1 = make_norm(config.norm, dim)
        self.norm2 = make_norm(config.norm, dim)
        if self.per_position:
            widths = width if isinstance(width, tuple) else (width,) * config.depth_weight_sets
            schedule = config.depformer_weights_per_step_schedule
            self.gating = ProjectionList((GatedFeedForward(dim, w, kind) for w in widths), schedule)
        elif self.gated:
            self.gating = GatedFeedForward(dim, width, kind)
        else:
            self.linear1 = nn.Linear(dim, width, bias=False)
            self.linear2 = nn.Linear(width, dim, bias=False)
        self.layer_scale_1 = make_scale(config.depformer_layer_scale, dim)
        self.layer_scale_2 = make_scale(config.depformer_layer_scale, dim)

    def _feed_forward(self, x: Tensor, position: int | None) -> Tensor:
        y = self.norm2(x)
        if not self.gated:
            y = self.linear2(F.gelu(self.linear1(y)))
        elif self.per_position and position is not None:
            y = self.gating.at(position)(y)
        else:
            y = self.gating(y)
        return x + self.layer_scale_2(y)

    def forward(self, x_NQD: Tensor, angles) -> Tensor:
        x_NQD = x_NQD + self.layer_scale_1(self.self_attn(self.norm1(x_NQD), angles))
        return self._feed_forward(x_NQD, None)

    def step(self, x_N1D: Tensor, angles, position: int, keys: Tensor, values: Tensor) -> Tensor:
        attended = self.self_attn.step(self.norm1(x_N1D), angles, position, keys, values)
        return self._feed_forward(x_N1D + self.layer_scale_1(attended), position)


class DepthTransformer(nn.Module):
    """The stack of depth layers."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(DepthLayer(config) for _ in range(config.depformer_num_layers))

    def _positions(self, x_NQD: Tensor, positions_Q: Tensor):
        c = self.config
        if "sin" in c.depformer_pos_emb:
            added = sinusoids(positions_Q, c.depformer_dim, c.depformer_max_period, x_NQD.dtype)
            x_NQD = x_NQD + c.depformer_positional_scale * added
        angles = None
        if "rope" in c.depformer_pos_emb:
            head_dim = c.depformer_dim // c.depformer_num_heads
            angles = rotary_angles(positions_Q, head_dim, c.depformer_max_period)
        return x_NQD, angles

    def forward(self, x_NQD: Tensor) -> Tensor:
        """All positions of N frames at once: [N, Q, D] -> [N, Q, D]."""
        x_NQD, angles = self._positions(x_NQD, torch.arange(x_NQD.shape[1], device=x_NQD.device))
        for layer in self.layers:
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x_NQD = checkpoint(layer, x_NQD, angles, use_reentrant=False)
            else:
                x_NQD = layer(x_NQD, angles)
        return x_NQD

    def make_cache(self, batch_size: int, like: Tensor) -> DepthCache:
        """Scratch for one frame of `batch_size` rows, of the type and device of `like`."""
        c = self.config
        shape = (c.depformer_num_layers, batch_size, c.depformer_num_heads // c.depformer_kv_repeat, c.dep_q,
                 c.depformer_dim // c.depformer_num_heads)
        return DepthCache(like.new_empty(shape), like.new_empty(shape))

    def step(self, x_ND: Tensor, position: int, cache: DepthCache) -> Tensor:
        """One position of N frames: [N, D] -> [N, D]; positions must be visited in order from 0."""
        x_N1D, angles = self._positions(x_ND[:, None], torch.tensor([position], device=x_ND.device))
        for i, layer in enumerate(self.layers):
            x_N1D = layer.step(x_N1D, angles, position, cache.keys_LNGQE[i], cache.values_LNGQE[i])
        return x_N1D[:, 0]
