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
class KVRing:
    """Keys and values of the last C frames of each batch row. Frame t of a row lies in slot t modulo C.

    How many frames a row has seen is not kept here: the caller passes it to `TemporalTransformer.step`.
    """

    store_LBGCE: Tensor
    """[L, B, 2 G, C, E]: the heads' keys above their values."""

    def clone(self) -> KVRing:
        return KVRing(self.store_LBGCE.clone())

    def reset(self, mask_B: Tensor) -> None:
        """Empties the rows where `mask` is True."""
        # Old entries are never attended to again, but a NaN among them would survive the masking.
        self.store_LBGCE[:, mask_B] = 0


class TemporalAttention(nn.Module):
    """Multi-head self-attention over frames."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.kv_heads = config.num_heads // config.kv_repeat
        head_dim = config.dim // config.num_heads
        out = (self.heads + 2 * self.kv_heads) * head_dim
        self.in_projs = ProjectionList([nn.Linear(config.dim, out, bias=False)])
        self.out_projs = ProjectionList([nn.Linear(config.dim, config.dim, bias=False)])
        self.register_load_state_dict_pre_hook(ProjectionList.accept_stacked)

    def forward(self, x_BTD: Tensor, rotation: Rotation | None, window: int | None) -> Tensor:
        q, k, v = split_heads(self.in_projs[0](x_BTD), self.heads, self.kv_heads, rotation)
        return self.out_projs[0](attend(q, k, v, causal=True, window=window))

    def step(self, x_BD: Tensor, rotation: Rotation | None, ring_BGCE: Tensor, window: RingWindow) -> Tensor:
        q, kv = split_step(self.in_projs[0](x_BD), self.heads, self.kv_heads, rotation)
        window.put(ring_BGCE, kv)
        keys, values = ring_BGCE[:, :, : window.filled].chunk(2, dim=1)
        return self.out_projs[0](attend(q, keys, values, window.mask)[:, 0])


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

    def forward(self, x_BTD: Tensor, rotation: Rotation | None, window: int | None) -> Tensor:
        attended = self.self_attn(self.norm1(x_BTD), rotation, window)
        return self.feed_forward(x_BTD + self.layer_scale_1(attended))

    def step(self, x_BD: Tensor, rotation: Rotation | None, ring_BGCE: Tensor, window: RingWindow) -> Tensor:
        attended = self.self_attn.step(self.norm1(x_BD), rotation, ring_BGCE, window)
        return self.feed_forward(x_BD + self.layer_scale_1(attended))


class RingWindow:
    """Where one step writes in the ring and what it may read: computed once, used by every layer."""

    def __init__(self, frames_B: Tensor, capacity: int, active_B: Tensor | None) -> None:
        B = len(frames_B)
        self.rows = torch.arange(B, device=frames_B.device)
        self.slot_B = frames_B % capacity
        self.active_B11 = None if active_B is None else active_B[:, None, None]
        self.filled, fewest = capacity, 0
        if B == 1 and frames_B.device.type == "cpu":
            # Here looking at the numbers costs no synchronisation: attend to filled slots only. With more rows the
            # width would depend on the oldest of them, and the last bits of a row's result on its neighbours.
            self.filled, fewest = min(int(frames_B.max()) + 1, capacity), int(frames_B.min()) + 1
        self.mask = None
        if fewest < self.filled:
            # Slot c holds a frame of this row unless the row has not come that far since it was reset.
            slots = torch.arange(self.filled, device=frames_B.device)
            self.mask = (slots <= frames_B[:, None])[:, None, None, :]

    def put(self, ring_BGCE: Tensor, new_BGE: Tensor) -> None:
        """Writes one frame into the ring, except for inactive rows."""
        new = new_BGE.to(ring_BGCE.dtype)
        if self.active_B11 is not None:
            new = torch.where(self.active_B11, new, ring_BGCE[self.rows, :, self.slot_B])
        ring_BGCE[self.rows, :, self.slot_B] = new


class TemporalTransformer(nn.Module):
    """The stack of temporal layers, without the final norm."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(TemporalLayer(config) for _ in range(config.num_layers))

    def _positions(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Rotation | None]:
        """`x` with absolute positions added where the model has them, and the rotation where it has one."""
        c, kind = self.config, self.config.positional_embedding
        if "sin" in kind:
            x = x + c.positional_scale * sinusoids(positions, c.dim, c.max_period, x.dtype)
        if "rope" not in kind:
            return x, None
        return x, Rotation.at(positions, c.dim // c.num_heads, c.max_period, kind != "rope_concat")

    def forward(self, x_BTD: Tensor) -> Tensor:
        """All frames at once: [B, T, D] -> [B, T, D]. Frame t sees the `context` frames up to t."""
        T = x_BTD.shape[1]
        positions_T = torch.arange(T, device=x_BTD.device)
        x_BTD, rotation = self._positions(x_BTD, positions_T)
        window = self.config.context if self.config.context is not None and T > self.config.context else None
        for layer in self.layers:
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x_BTD = checkpoint(layer, x_BTD, rotation, window, use_reentrant=False)
            else:
                x_BTD = layer(x_BTD, rotation, window)
        return x_BTD

    def make_ring(self, batch_size: int) -> KVRing:
        """An empty ring of `context` frames. Raises ConfigError for a model without a context limit."""
        c = self.config
        if c.context is None:
            raise ConfigError("context: streaming needs a limit; set it to a number of frames")
        shape = (c.num_layers, batch_size, 2 * c.num_heads // c.kv_repeat, c.context, c.dim // c.num_heads)
        return KVRing(next(self.parameters()).new_zeros(shape))

    def step(self, x_BD: Tensor, ring: KVRing, frames_B: Tensor, active_B: Tensor | None = None) -> Tensor:
        """One frame: [B, D] -> [B, D]. `frames[b]` int64 is the number of frames that row b has seen before.

        The ring is updated in place, except for the rows where `active` is False; what they return means
        nothing.
        """
        window = RingWindow(frames_B, ring.store_LBGCE.shape[3], active_B)
        x_BD, rotation = self._positions(x_BD, frames_B)
        if rotation is not None:
            rotation = rotation.unsqueeze(1)  # one angle for all heads of a row
        for layer, ring_BGCE in zip(self.layers, ring.store_LBGCE.unbind(0), strict=True):
            x_BD = layer.step(x_BD, rotation, ring_BGCE, window)
        return x_BD
