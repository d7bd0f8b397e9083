"""The temporal transformer: one position per frame, causal attention over the last `context` frames.

`forward` runs all frames of a sequence at once, `step` one frame on top of a ring of keys and values; both
compute the same function (arXiv:2410.00037, section 3.4.1).

Shapes: B batch, T frames, D width, H query heads, G key/value heads, E head width, L layers, C ring capacity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from duplex.config import LMConfig
from duplex.errors import ConfigError
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
class KVRing:
    """Keys and values of the last C frames of each batch row. Frame t of a row lies in slot t modulo C.

    How many frames a row has seen is not kept here: the caller passes it to `TemporalTransformer.step`.
    """

    keys_LBGCE: Tensor
    values_LBGCE: Tensor

    def clone(self) -> KVRing:
        return KVRing(self.keys_LBGCE.clone(), self.values_LBGCE.clone())


class TemporalAttention(nn.Module):
    """Multi-head self-attention over frames."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.kv_heads = config.num_heads // config.kv_repeat
        head_dim = config.dim // config.num_heads
        self.interleaved = config.positional_embedding != "rope_concat"
        out = (self.heads + 2 * self.kv_heads) * head_dim
        self.in_projs = ProjectionList([nn.Linear(config.dim, out, bias=False)])
        self.out_projs = ProjectionList([nn.Linear(config.dim, config.dim, bias=False)])
        self.register_load_state_dict_pre_hook(ProjectionList.accept_stacked)

    def project(self, x_BTD: Tensor, angles) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = split_heads(self.in_projs[0](x_BTD), self.heads, self.kv_heads)
        if angles is not None:
            q, k = rotate(q, angles, self.interleaved), rotate(k, angles, self.interleaved)
        return q, k, v

    def forward(self, x_BTD: Tensor, angles, mask_TT: Tensor | None) -> Tensor:
        q, k, v = self.project(x_BTD, angles)
        return self.out_projs[0](attend(q, k, v, mask_TT, causal=mask_TT is None))

    def step(self, x_B1D: Tensor, angles, ring: tuple[Tensor, Tensor], window: RingWindow) -> Tensor:
        q, k, v = self.project(x_B1D, angles)
        keys, values = (window.put(store, new[:, :, 0]) for store, new in zip(ring, (k, v), strict=True))
        return self.out_projs[0](attend(q, keys, values, window.mask))


class TemporalLayer(nn.Module):
    """Pre-norm attention and feed-forward, each on a residual branch."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        width = int(config.hidden_scale * config.dim)
        self.self_attn = TemporalAttention(config)
        self.norm1 = make_norm(config.norm, config.dim)
        self.norm2 = make_norm(config.norm, config.dim)
        self.gated = config.gating != "none"
        if self.gated:
            self.gating = GatedFeedForward(config.dim, width, config.gating)
        else:
            self.linear1 = nn.Linear(config.dim, width, bias=False)
            self.linear2 = nn.Linear(width, config.dim, bias=False)
        self.layer_scale_1 = make_scale(config.layer_scale, config.dim)
        self.layer_scale_2 = make_scale(config.layer_scale, config.dim)

    def feed_forward(self, x: Tensor) -> Tensor:
        y = self.norm2(x)
        y = self.gating(y) if self.gated else self.linear2(F.gelu(self.linear1(y)))
        return x + self.layer_scale_2(y)

    def forward(self, x_BTD: Tensor, angles, mask_TT: Tensor | None) -> Tensor:
        x_BTD = x_BTD + self.layer_scale_1(self.self_attn(self.norm1(x_BTD), angles, mask_TT))
        return self.feed_forward(x_BTD)

    def step(self, x_B1D: Tensor, angles, ring: tuple[Tensor, Tensor], window: RingWindow) -> Tensor:
        x_B1D = x_B1D + self.layer_scale_1(self.self_attn.step(self.norm1(x_B1D), angles, ring, window))
        return self.feed_forward(x_B1D)


class RingWindow:
    """Where one step writes in the ring and what it may read: computed once, used by every layer."""

    def __init__(self, frames_B: Tensor, capacity: int, active_B: Tensor | None) -> None:
        B = len(frames_B)
        self.rows = torch.arange(B, device=frames_B.device)
        self.slot_B = frames_B % capacity
        self.active_B11 = None if active_B is None else active_B[:, None, None]
        # On the CPU the number of filled slots is known without a device synchronisation: attend to no more.
        self.filled = min(int(frames_B.max()) + 1, capacity) if frames_B.device.type == "cpu" else capacity
        slots = torch.arange(self.filled, device=frames_B.device)
        # Slot c holds a frame of this row unless the row has not come that far since it was reset.
        self.mask = (slots <= frames_B[:, None])[:, None, None, :]

    def put(self, store_BGCE: Tensor, new_BGE: Tensor) -> Tensor:
        """Writes one frame into the ring, except for inactive rows, and returns the part to attend to."""
        new = new_BGE.to(store_BGCE.dtype)
        if self.active_B11 is not None:
            new = torch.where(self.active_B11, new, store_BGCE[self.rows, :, self.slot_B])
        store_BGCE[self.rows, :, self.slot_B] = new
        return store_BGCE[:, :, : self.filled]


class TemporalTransformer(nn.Module):
    """The stack of temporal layers, without the final norm."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(TemporalLayer(config) for _ in range(config.num_layers))

    def _positions(self, x_BTD: Tensor, positions: Tensor):
        """Adds absolute positions to `x` where the model has them; returns it with the rotation angles, if
        any.
        """
        c = self.config
        if "sin" in c.positional_embedding:
            x_BTD = x_BTD + c.positional_scale * sinusoids(positions, c.dim, c.max_period, x_BTD.dtype)
        angles = None
        if "rope" in c.positional_embedding:
            angles = rotary_angles(positions, c.dim // c.num_heads, c.max_period)
        return x_BTD, angles

    def forward(self, x_BTD: Tensor) -> Tensor:
        """All frames at once: [B, T, D] -> [B, T, D]. Frame t sees the `context` frames up to t."""
        T = x_BTD.shape[1]
        positions_T = torch.arange(T, device=x_BTD.device)
        x_BTD, angles = self._positions(x_BTD, positions_T)
        mask_TT = None
        if self.config.context is not None and T > self.config.context:
            behind = positions_T[:, None] - positions_T
            mask_TT = (behind >= 0) & (behind < self.config.context)
        for layer in self.layers:
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x_BTD = checkpoint(layer, x_BTD, angles, mask_TT, use_reentrant=False)
            else:
                x_BTD = layer(x_BTD, angles, mask_TT)
        return x_BTD

    def make_ring(self, batch_size: int) -> KVRing:
        """An empty ring of `context` frames. Raises ConfigError for a model without a context limit."""
        c = self.config
        if c.context is None:
            raise ConfigError("context: streaming needs a limit; set it to a number of frames")
        shape = (c.num_layers, batch_size, c.num_heads // c.kv_repeat, c.context, c.dim // c.num_heads)
        zeros = next(self.parameters()).new_zeros(shape)
        return KVRing(zeros, torch.zeros_like(zeros))

    def step(self, x_BD: Tensor, ring: KVRing, frames_B: Tensor, active_B: Tensor | None = None) -> Tensor:
        """One frame: [B, D] -> [B, D]. `frames[b]` int64 is the number of frames that row b has seen before.

        The ring is updated in place, except for the rows where `active` is False; what they return means
        nothing.
        """
        window = RingWindow(frames_B, ring.keys_LBGCE.shape[3], active_B)
        x_B1D, angles = self._positions(x_BD[:, None], frames_B[:, None])
        if angles is not None:
            angles = tuple(a[:, None] for a in angles)
        for i, layer in enumerate(self.layers):
            x_B1D = layer.step(x_B1D, angles, (ring.keys_LBGCE[i], ring.values_LBGCE[i]), window)
        return x_B1D[:, 0]
