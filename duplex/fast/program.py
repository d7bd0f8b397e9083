"""One frame as a single function of tensors of fixed shapes, without branches on values: what compilers and graphs take.

Attention goes over the whole ring, with a mask. The ring is read and not written: the present frame's keys and values take part
beside it and come out, for the caller to put in their slots. Text, every depth position and the choice of every token are inside.

B batch rows, K rows of codes, Q audio rows generated, V text vocabulary, L layers, G key/value heads, C context, E head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duplex.model.layers import split_step
from duplex.model.lm import DuplexLM
from duplex.sampling import pick


class FrameProgram(nn.Module):
    """The step of a model with its parameters. `greedy` leaves the noise and the temperatures out."""

    def __init__(self, model: DuplexLM, generated: int, greedy: bool, text_top_k: int, audio_top_k: int) -> None:
        super().__init__()
        self.model, self.generated, self.greedy = model, generated, greedy
        self.text_top_k, self.audio_top_k = text_top_k, audio_top_k

    def forward(
        self, tokens_BK: Tensor, frames_B: Tensor, store_LBGCE: Tensor, noise_BQ: Tensor, heat_B2: Tensor,
        offset_BV: Tensor, forced_text_B: Tensor, forced_BQ: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Text logits [B, V], text [B], audio [B, Q], new keys above values [L, B, 2 G, E], auxiliary heads [H, B, classes].

        `offset` is added to the text logits before the choice; `forced` tokens replace it where they are not negative.
        """
        model = self.model
        x_BD = model.embed(tokens_BK[:, :, None])[:, 0]
        hidden_BD, new = self._temporal(x_BD, frames_B, store_LBGCE)
        logits_BV = model.text_linear(hidden_BD).float()
        text_B = self._choose(logits_BV + offset_BV, noise_BQ[:, 0], heat_B2[:, 0], self.text_top_k)
        text_B = torch.where(forced_text_B >= 0, forced_text_B, text_B)
        codes, previous_B = [], text_B
        cache = model.depformer.make_cache(len(x_BD), hidden_BD) if self.generated else None
        for q in range(self.generated):
            audio_BV = model.depth_step(q, hidden_BD, previous_B, cache)
            previous_B = self._choose(audio_BV.float(), noise_BQ[:, 1 + q], heat_B2[:, 1], self.audio_top_k)
            if q < forced_BQ.shape[1]:
                previous_B = torch.where(forced_BQ[:, q] >= 0, forced_BQ[:, q], previous_B)
            codes.append(previous_B)
        audio_BQ = torch.stack(codes, 1) if codes else forced_BQ.new_zeros(len(x_BD), 0)
        heads = model.extra_probabilities(hidden_BD)
        return logits_BV, text_B, audio_BQ, new, torch.stack(heads) if heads else logits_BV.new_zeros(0)

    def _choose(self, logits_BV: Tensor, noise_B: Tensor, heat_B: Tensor, top_k: int) -> Tensor:
        return logits_BV.argmax(-1) if self.greedy else pick(logits_BV, noise_B, heat_B, top_k)

    def _temporal(self, x_BD: Tensor, frames_B: Tensor, store_LBGCE: Tensor) -> tuple[Tensor, Tensor]:
        transformer, capacity = self.model.transformer, store_LBGCE.shape[3]
        slots_C = torch.arange(capacity, device=frames_B.device)
        # Slots of this row's past, but for the one that the present frame will take.
        seen_BC = (slots_C < frames_B[:, None]) & (slots_C != (frames_B % capacity)[:, None])
        mask_B11C = torch.cat([seen_BC, torch.ones_like(seen_BC[:, :1])], 1)[:, None, None]
        x_BD, rotation = transformer._positions(x_BD, frames_B)
        if rotation is not None:
            rotation = rotation.unsqueeze(1)
        new = []
        for layer, ring_BGCE in zip(transformer.layers, store_LBGCE.unbind(0), strict=True):
            attention = layer.self_attn
            q, kv_BGE = split_step(attention.in_projs[0](layer.norm1(x_BD)), attention.heads, attention.kv_heads, rotation)
            kv_BGE = kv_BGE.to(ring_BGCE.dtype)
            keys, values = torch.cat([ring_BGCE, kv_BGE[:, :, None]], 2).chunk(2, dim=1)
            repeat = q.shape[1] // keys.shape[1]
            if repeat > 1:
                keys, values = keys.repeat_interleave(repeat, dim=1), values.repeat_interleave(repeat, dim=1)
            attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask_B11C)
            out = attention.out_projs[0](attended.transpose(1, 2).flatten(2)[:, 0])
            x_BD = layer.feed_forward(x_BD + layer.layer_scale_1(out))
            new.append(kv_BGE)
        return self.model.out_norm(x_BD), torch.stack(new)
