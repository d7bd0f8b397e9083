"""The language model: embeddings, temporal transformer, text head, depth transformer, audio heads.

Input and output are undelayed codes `[B, K, T]`: row 0 text, then the system's codebooks, then the user's; -1
means "no token". The delays are applied inside (arXiv:2410.00037, section 3.4).

Shapes: B batch, K rows, T frames, Q predicted audio rows (dep_q), D width, V vocabulary, N chosen steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from duplex.config import LMConfig
from duplex.delays import DelayPattern
from duplex.errors import InputError
from duplex.model import passes
from duplex.model.depth import DepthCache, DepthTransformer
from duplex.model.layers import TokenEmbedding, init_weights, make_norm
from duplex.model.projections import ProjectionList
from duplex.model.temporal import TemporalTransformer
from duplex.streams import ZERO_TOKEN, StreamLayout


@dataclass
class LMOutput:
    """Teacher-forced logits, aligned with the frames of the input codes unless there is a `depth_index`."""

    text_logits: Tensor
    """[B, 1, T, V]; NaN where `text_mask` is False because the text delay left no step for the frame."""
    text_mask: Tensor
    """bool [B, 1, T]: the frame was predicted and has a target."""
    logits: Tensor
    """[B, Q, T, V], NaN where no step was left for the frame; or [N, Q, V] for the steps of `depth_index`."""
    mask: Tensor
    """bool [B, Q, T], or [N, Q]."""
    depth_index: Tensor | None = None
    """int64 [N]: flat number `b * T + step` of each step that the depth transformer was evaluated on."""
    depth_targets: Tensor | None = None
    """int64 [N, Q], with `depth_index` only: the codes that `logits` predict; valid where `mask` is True."""


class DuplexLM(nn.Module):
    """All rows in, text and `dep_q` audio rows out. Parameters have the names of published checkpoints."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = c = config
        self.layout = StreamLayout.from_config(config)
        self.pattern = DelayPattern(config.delays)
        audio, text, low_rank = c.card + 1, c.text_card + 1, c.depformer_low_rank_embeddings
        demux = c.demux_second_stream

        self.emb = nn.ModuleList(TokenEmbedding(audio, c.dim, c.norm_emb) for _ in range(c.n_q))
        self.text_emb = TokenEmbedding(text, c.dim, c.norm_emb, demux=demux)
        self.text_linear = nn.Linear(c.dim, c.text_card_out or c.text_card, bias=c.bias_proj)
        self.transformer = TemporalTransformer(c)
        self.out_norm = make_norm(c.norm, c.dim)
        inputs = c.depth_weight_sets if c.depformer_weights_per_step else c.dep_q
        inputs = inputs if c.depformer_multi_linear else 1
        self.depformer_in = ProjectionList(
            (nn.Linear(c.dim, c.depformer_dim, bias=False) for _ in range(inputs)),
            c.depformer_weights_per_step_schedule,
        )
        if c.dep_q:
            self.depformer_emb = nn.ModuleList(
                TokenEmbedding(audio, c.depformer_dim, c.norm_emb, low_rank) for _ in range(c.dep_q - 1))
            self.depformer_text_emb = TokenEmbedding(text, c.depformer_dim, c.norm_emb, low_rank, demux)
            norms = (make_norm(c.depformer_norm, c.depformer_dim) if c.depformer_norm else nn.Identity()
                     for _ in range(c.dep_q))
            self.depformer_norms = nn.ModuleList(norms)
            self.depformer = DepthTransformer(c)
        self.extra_heads = nn.ModuleList(
            nn.Linear(c.dim, c.extra_heads_dim, bias=False) for _ in range(c.extra_heads_num_heads))
        self.linears = nn.ModuleList(
            nn.Linear(c.depformer_dim, c.card, bias=c.bias_proj) for _ in range(c.dep_q))
        init_weights(self)

    def initial_tokens(self, device: torch.device | None = None) -> Tensor:
        """int64 [K]: the ids that stand for "before the first frame" in each row."""
        ids = [self.config.text_card] + [self.config.card] * self.config.n_q
        return torch.tensor(ids, device=self.text_linear.weight.device if device is None else device)

    # Pieces shared by the parallel and the streaming form.

    def embed(self, tokens_BKT: Tensor) -> Tensor:
        """Sum over rows of the input embeddings: [B, K, T] -> [B, T, D]."""
        if passes.applies(self.text_emb.weight) and not (self.config.norm_emb or self.config.demux_second_stream):
            tables = [embedding.weight for embedding in self.emb]
            tables.insert(self.layout.text_row, self.text_emb.weight)
            return passes.sum_of_embeddings(tokens_BKT, tables)
        ids_K, known_K = tokens_BKT.clamp(min=0).unbind(1), (tokens_BKT >= 0).to(self.text_emb.weight.dtype)
        known_K = known_K[..., None].unbind(1)
        audio = (embedding.lookup(ids_K[row], known_K[row])
                 for row, embedding in enumerate(self.emb, self.layout.audio_rows.start))
        text = self.layout.text_row
        return sum(audio, start=next(audio)) + self.text_emb.lookup(ids_K[text], known_K[text])

    def depth_embedding(self, position: int) -> TokenEmbedding:
        """Embedding of the row before depth `position`: of text for the first."""
        return self.depformer_text_emb if position == 0 else self.depformer_emb[position - 1]

    def depth_logits(self, position: int, out_ND: Tensor) -> Tensor:
        """Audio logits [N, V] of one depth position."""
        return self.linears[position](self.depformer_norms[position](out_ND))

    def depth_step(self, position: int, hidden_ND: Tensor, previous_N: Tensor, cache: DepthCache) -> Tensor:
        """Streaming: logits [N, V] of audio row `position`, given the token of the row before it."""
        x_ND = self.depformer_in.at(position)(hidden_ND) + self.depth_embedding(position)(previous_N)
        return self.depth_logits(position, self.depformer.step(x_ND, position, cache))

    def extra_probabilities(self, hidden: Tensor) -> list[Tensor]:
        """Class probabilities [..., extra_heads_dim] of each auxiliary head for temporal output [..., D]."""
        return [torch.softmax(head(hidden), -1) for head in self.extra_heads]

    # The parallel form.

    def temporal(self, steps_BKS: Tensor) -> Tensor:
        """Normalised temporal output [B, S, D] for delayed input tokens [B, K, S]."""
        return self.out_norm(self.transformer(self.embed(steps_BKS)))

    def depth(self, hidden_ND: Tensor, targets_NK: Tensor) -> Tensor:
        """Teacher-forced audio logits [N, Q, V] of N steps from their temporal vectors and delayed tokens."""
        rows = range(self.config.dep_q)
        previous = torch.stack([self.depth_embedding(q)(targets_NK[:, q]) for q in rows], 1)
        ins = [self.depformer_in.at(q) for q in rows]
        if passes.applies(hidden_ND) and passes.stackable(ins):
            joint = torch.cat([m.weight for m in ins])  # one product of one input with all matrices
            from_temporal = nn.functional.linear(hidden_ND, joint).unflatten(-1, (len(rows), -1))
        else:
            from_temporal = torch.stack([m(hidden_ND) for m in ins], 1)
        out_NQD = self.depformer(from_temporal + previous)
        if passes.applies(out_NQD) and passes.stackable(self.linears) and self.config.depformer_norm is None:
            return passes.each_linear(out_NQD, self.linears)
        return torch.stack([self.depth_logits(q, out_ND) for q, out_ND in enumerate(out_NQD.unbind(1))], 1)

    def forward(self, codes: Tensor, depth_index: Tensor | None = None, seen: Tensor | None = None) -> LMOutput:
        """Teacher-forced logits of `codes` int64 [B, K, T].

        With `depth_index` (int64 [N], flat `b * T + step`) the depth transformer runs on those steps alone
        and its logits are returned per step, with their targets: rows of one step belong to different frames,
        by the delays. `torch.arange(B * T)` asks for all steps. Raises InputError for another number of rows
        than the model's.

        `seen` [B, K, T] is what the temporal transformer is given in place of `codes`: a training that hides or
        disturbs its history keeps its targets, and what the depth transformer is given within a frame.
        """
        c = self.config
        B, K, T = codes.shape
        if K != c.num_rows:
            raise InputError(f"codes have {K} rows, the model has {c.num_rows} (text and {c.n_q} codebooks)")
        initial_K = self.initial_tokens(codes.device)
        delayed_BKT = self.pattern.apply(codes, initial_K)[..., :T]
        # The input of a step is what the step before it produced.
        first_BK1 = initial_K[None, :, None].expand(B, -1, 1)
        given_BKT = delayed_BKT if seen is None else self.pattern.apply(seen, initial_K)[..., :T]
        hidden_BTD = self.temporal(torch.cat([first_BK1, given_BKT[..., :-1]], -1))
        text, audio = slice(0, 1), slice(1, 1 + c.dep_q)
        text_logits = self.text_linear(hidden_BTD)[:, None]
        text_logits, text_mask = self.pattern.rows(text).align(text_logits, float("nan"))
        text_mask &= codes[:, text] != ZERO_TOKEN
        if not c.dep_q:
            nothing = text_logits.new_zeros(B, 0, T, c.card)
            return LMOutput(text_logits, text_mask, nothing, nothing[..., 0].bool())

        hidden_ND, tokens_NK = hidden_BTD.flatten(0, 1), delayed_BKT.transpose(1, 2).flatten(0, 1)
        if depth_index is None:
            logits_BQTV = self.depth(hidden_ND, tokens_NK).unflatten(0, (B, T)).transpose(1, 2)
            logits, mask = self.pattern.rows(audio).align(logits_BQTV, float("nan"))
            return LMOutput(text_logits, text_mask, logits, mask & (codes[:, audio] != ZERO_TOKEN))
        tokens_NK = tokens_NK[depth_index]
        targets = tokens_NK[:, audio]
        step_N1 = depth_index[:, None] % T
        delays_Q = torch.tensor(c.delays[audio], device=codes.device)
        mask = (step_N1 >= delays_Q) & (targets != ZERO_TOKEN)
        logits = self.depth(hidden_ND[depth_index], tokens_NK)
        return LMOutput(text_logits, text_mask, logits, mask, depth_index, targets)
