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
from duplex.model import passes
from duplex.model.layers import (
    GatedFeedForward,
    Rotation,
    attend,
    make_norm,
    make_scale,
    sinusoids,
    split_heads,
    split_step,
)
from duplex.model.projections import ProjectionList


@dataclass
class DepthCache:
    """Keys and values of the positions of the present frame: scratch space, nothing outlives the frame."""

    store_LNGQE: Tensor
    """[L, N, 2 G, Q, E]: the heads' keys above their values."""


class DepthAttention(nn.Module):
    """Multi-head self-attention over the positions of one frame."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        dim, self.heads = config.depformer_dim, config.depformer_num_heads
        self.kv_heads = self.heads // config.depformer_kv_repeat
        out = (self.heads + 2 * self.kv_heads) * (dim // self.heads)
        sets, schedule = config.depth_weight_sets, config.depformer_weights_per_step_schedule
        self.in_projs = ProjectionList((nn.Linear(dim, out, bias=False) for _ in range(sets)), schedule)
        self.out_projs = ProjectionList((nn.Linear(dim, dim, bias=False) for _ in range(sets)), schedule)
        self.register_load_state_dict_pre_hook(ProjectionList.accept_stacked)

    def forward(self, x_NQD: Tensor, rotation: Rotation | None) -> Tensor:
        q, k, v = split_heads(self.in_projs(x_NQD), self.heads, self.kv_heads, rotation)
        return self.out_projs(attend(q, k, v, causal=True))

    def step(self, x_ND: Tensor, rotation: Rotation | None, position: int, store_NGQE: Tensor) -> Tensor:
        q, kv = split_step(self.in_projs.at(position)(x_ND), self.heads, self.kv_heads, rotation)
        store_NGQE[:, :, position] = kv
        keys, values = store_NGQE[:, :, : position + 1].chunk(2, dim=1)
        return self.out_projs.at(position)(attend(q, keys, values)[:, 0])


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
            y = self._feed_all(y) if self.per_position and passes.applies(y) else self.gating(y)
        return x + self.layer_scale_2(y)

    def _feed_all(self, y_NQD: Tensor) -> Tensor:
        members = [self.gating.at(q) for q in range(y_NQD.shape[1])]
        ins, outs = [m.linear_in for m in members], [m.linear_out for m in members]
        if len(self.gating) == 1 or not (passes.stackable(ins) and passes.stackable(outs)):
            return self.gating(y_NQD)
        return passes.each_linear(members[0].gate(passes.each_linear(y_NQD, ins)), outs)

    def forward(self, x_NQD: Tensor, rotation: Rotation | None) -> Tensor:
        attended = self.self_attn(self.norm1(x_NQD), rotation)
        return self._feed_forward(x_NQD + self.layer_scale_1(attended), None)

    def step(self, x_ND: Tensor, rotation: Rotation | None, position: int, store_NGQE: Tensor) -> Tensor:
        attended = self.self_attn.step(self.norm1(x_ND), rotation, position, store_NGQE)
        return self._feed_forward(x_ND + self.layer_scale_1(attended), position)


class DepthTransformer(nn.Module):
    """The stack of depth layers."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(DepthLayer(config) for _ in range(config.depformer_num_layers))

    def _positions(self, x_NQD: Tensor, first: int) -> tuple[Tensor, Rotation | None]:
        """`x`, whose positions start at `first`, with absolute positions added, and the rotation, if any."""
        c, kind = self.config, self.config.depformer_pos_emb
        if kind == "none":
            return x_NQD, None
        positions_Q = torch.arange(first, first + x_NQD.shape[1], device=x_NQD.device)
        if "sin" in kind:
            added = sinusoids(positions_Q, c.depformer_dim, c.depformer_max_period, x_NQD.dtype)
            x_NQD = x_NQD + c.depformer_positional_scale * added
        if "rope" not in kind:
            return x_NQD, None
        head_dim = c.depformer_dim // c.depformer_num_heads
        return x_NQD, Rotation.at(positions_Q, head_dim, c.depformer_max_period, kind != "rope_concat")

    def forward(self, x_NQD: Tensor) -> Tensor:
        """All positions of N frames at once: [N, Q, D] -> [N, Q, D]."""
        x_NQD, rotation = self._positions(x_NQD, 0)
        for layer in self.layers:
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x_NQD = checkpoint(layer, x_NQD, rotation, use_reentrant=False)
            else:
                x_NQD = layer(x_NQD, rotation)
        return x_NQD

    def make_cache(self, batch_size: int, like: Tensor) -> DepthCache:
        """Scratch for one frame of `batch_size` rows, of the type and device of `like`."""
        c = self.config
        kv_heads = 2 * c.depformer_num_heads // c.depformer_kv_repeat
        head_dim = c.depformer_dim // c.depformer_num_heads
        return DepthCache(like.new_empty(c.depformer_num_layers, batch_size, kv_heads, c.dep_q, head_dim))

    def step(self, x_ND: Tensor, position: int, cache: DepthCache) -> Tensor:
        """One position of N frames: [N, D] -> [N, D]; positions must be visited in order from 0."""
        x_N1D, rotation = self._positions(x_ND[:, None], position)
        x_ND = x_N1D[:, 0]
        for layer, store_NGQE in zip(self.layers, cache.store_LNGQE.unbind(0), strict=True):
            x_ND = layer.step(x_ND, rotation, position, store_NGQE)
        return x_ND
