"""The engine on native kernels: the same contract and the same `StreamState` as `duplex.engine.Engine`, one call per frame.

The kernels add up in another order than torch does, so logits differ in the last digits; greedy tokens are those of the plain
engine except where two logits agree to seven digits. States are interchangeable between the engines at any frame.

B batch rows, K rows of codes, Q depth positions, D width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from duplex.config import ACTIVATIONS, LMConfig, SamplingConfig
from duplex.engine import Engine, FrameOut, StreamState
from duplex.errors import ConfigError, InputError
from duplex.fast.build import library
from duplex.fast.packing import Parts, dense, version_of
from duplex.model.layers import Rotation, TokenEmbedding, make_norm, sinusoids
from duplex.model.lm import DuplexLM

SCHEMES = ("exact", "f32", "int8", "int4")
STAGES = ("other", "temporal", "depth", "sampling")
PARTS = ("elementwise", "products", "attention", "sampling")
_TURNS = {"none": 0, "sin": 0, "rope": 1, "sin_rope": 1, "rope_concat": 2}
_Mark = ctypes.CFUNCTYPE(None, ctypes.c_int)


class _Settings(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("audio_top_k", "text_top_k", "window")] + [
        ("log_penalty", ctypes.c_float), ("patience", ctypes.c_float)]


class _Frame(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in (
        "frames", "seeds", "ring", "kv", "recent", "onset", "user", "forced_text", "forced_system", "active", "bias", "heat",
        "text_now", "tokens", "ready", "text_logits", "extra")] + [("settings", _Settings), ("mark", _Mark),
                                                            ("spent", ctypes.c_void_p)]


class PackedLM:
    """The weights of one model for the native step: made once, shared by every engine and session."""

    def __init__(self, model: DuplexLM, scheme: str = "exact") -> None:
        if scheme not in SCHEMES:
            raise ConfigError(f"native weights: unknown scheme '{scheme}'; use one of {', '.join(SCHEMES)}")
        parameter = model.text_linear.weight
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ConfigError(f"backend native: the model is {kind} on {parameter.device}; load it on the CPU in float32")
        self.parts = _parts(model, scheme)
        self.handle = self.parts.build("dx_lm")
        self.parts.forget_sources()
        weakref.finalize(self, library().dx_lm_free, self.handle)


def packed(model: DuplexLM, scheme: str = "exact") -> PackedLM:
    """The packed weights of `model`, made at the first call and again when its parameters have changed since."""
    cache: dict[str, tuple[tuple, PackedLM]] = model.__dict__.setdefault("_native_weights", {})
    version = version_of(model)
    if scheme not in cache or cache[scheme][0] != version:
        cache[scheme] = (version, PackedLM(model, scheme))
    return cache[scheme][1]


class NativeEngine(Engine):
    """`Engine` with its step in C++. `scheme` "exact" keeps the weights as they are; "int8" and "int4" round them."""

    def __init__(self, model: DuplexLM, sampling: SamplingConfig | None = None, scheme: str = "exact") -> None:
        super().__init__(model, sampling)
        self.weights = packed(model, scheme)
        self._mark = _Mark()
        self.spent_ns: Tensor | None = None
        """For those who measure: int64 [4], where each step adds the time by the clock of each of PARTS."""

    def set_mark(self, mark: Callable[[int], None]) -> None:
        """For those who measure: `mark` is called with the number in STAGES of each stage that begins."""
        self._mark = _Mark(mark)

    @torch.no_grad()
    def step(
        self, state: StreamState, user_codes: Tensor | None, *, active: Tensor | None = None, forced_text: Tensor | None = None,
        forced_system: Tensor | None = None, text_bias: Tensor | None = None, sampling: SamplingConfig | None = None,
        temperatures: Tensor | None = None,
    ) -> tuple[StreamState, FrameOut]:
        """As `Engine.step`. The text logits of inactive rows are zero."""
        config, layout = self.model.config, self.layout
        B, s = state.batch_size, sampling or self.sampling
        user = self._checked("user_codes", user_codes, (B, layout.n_user), config.card)
        system = self._checked("forced_system", forced_system, (B, layout.n_system), config.card)
        text = self._checked("forced_text", forced_text, (B,), config.text_card)
        if user is None and config.dep_q < config.n_q:
            raise InputError(f"user_codes: this model does not predict them; give [{B}, {layout.n_user}]")
        V = len(self.model.text_linear.weight)
        if text_bias is not None:
            text_bias = text_bias.to("cpu", torch.float32).expand(B, V)
        if temperatures is None:
            heat = torch.tensor([[0.0, 0.0] if s.greedy else [s.text_temperature, s.audio_temperature]]).expand(B, 2)
        else:
            heat = temperatures.to("cpu", torch.float32)
        generated = config.dep_q if user is None else min(config.dep_q, layout.n_system)
        frames_B = state.frames_B.clone()  # an earlier holder of the tensor keeps its count, as with the plain engine
        now_B, tokens_BQ = frames_B.new_empty(B), frames_B.new_empty(B, 1 + generated)
        ready_B, logits_BV = torch.empty(B, dtype=torch.bool), torch.empty(B, V)
        extra = torch.empty(config.extra_heads_num_heads, B, config.extra_heads_dim)
        given = [None if t is None else t.contiguous() for t in (user, text, system, active, text_bias, heat)]
        line, kv = state.line.ring_BKR, state.kv.store_LBGCE
        for owner in (line, kv, state.seeds_B, state.recent_BW, state.onset_B2):
            if not owner.is_contiguous():
                raise InputError("the state's tensors are not contiguous; store and restore contiguous copies")
        held = (frames_B, state.seeds_B, line, kv, state.recent_BW, state.onset_B2, *given, now_B, tokens_BQ, ready_B,
                logits_BV, extra)
        settings = _Settings(s.audio_top_k, s.text_top_k, state.recent_BW.shape[1], math.log(s.repetition_penalty),
                             s.patience)
        spent = None if self.spent_ns is None else self.spent_ns.data_ptr()
        frame = _Frame(*[None if t is None else t.data_ptr() for t in held], settings, self._mark, spent)
        library().dx_lm_step(self.weights.handle, ctypes.addressof(frame), B)
        state.frames_B = frames_B
        return state, FrameOut(now_B, tokens_BQ, ready_B, logits_BV, tuple(extra.unbind(0)))


def _tables(embedding: TokenEmbedding) -> tuple[Tensor, Tensor | None]:
    """An embedding as plain tables [entries, D]: norm and projections are worked in, entry by entry."""
    table = embedding.weight
    if embedding.demux:
        return table @ embedding.out1.weight.T, table @ embedding.out2.weight.T
    if embedding.norm is not None:
        table = embedding.norm(table)
    return (table if embedding.low_rank is None else table @ embedding.low_rank.weight.T), None


@torch.no_grad()
def _parts(model: DuplexLM, scheme: str) -> Parts:
    """Everything that `LM::LM` in native/lm.cpp reads, in its order."""
    c, parts = model.config, Parts(scheme)
    gate = {name: number for number, name in enumerate(ACTIVATIONS)} | {"none": -1}
    parts.ints += [
        c.dim, c.num_heads, c.num_heads // c.kv_repeat, c.num_layers, c.context or 1, model.layout.n_system, model.layout.n_user,
        c.dep_q, len(model.text_linear.weight), c.existing_text_padding_id, c.existing_text_end_padding_id, c.text_card, c.card,
        _TURNS[c.positional_embedding], "sin" in c.positional_embedding, gate[c.gating],
        c.depformer_dim, c.depformer_num_heads, c.depformer_num_heads // c.depformer_kv_repeat, c.depformer_num_layers,
        _TURNS[c.depformer_pos_emb], gate[c.depformer_gating], c.extra_heads_num_heads, c.extra_heads_dim, *c.delays]
    parts.floats += [make_norm(c.norm, 1).eps, make_norm(c.depformer_norm or c.norm, 1).eps, c.positional_scale]
    steps, half = torch.arange(c.dim // c.num_heads // 2, dtype=torch.float32), c.dim // 2
    parts.vector(torch.exp(steps * (-math.log(c.max_period) * 2 / (c.dim // c.num_heads))))
    parts.vector(c.max_period ** (torch.arange(half, dtype=torch.float32) / max(half - 1, 1)))
    _depth_positions(c, parts)

    def embed(embedding: TokenEmbedding) -> None:
        for table in _tables(embedding):
            parts.table(table)
        parts.ints.append(len(embedding.weight))

    for embedding in (model.text_emb, *model.emb):
        embed(embedding)
    for layer in model.transformer.layers:
        parts.norm(layer.norm1)
        parts.norm(layer.norm2)
        parts.matrix(dense(layer.self_attn.in_projs[0]))
        parts.matrix(dense(layer.self_attn.out_projs[0]))
        for linear in (layer.gating.linear_in, layer.gating.linear_out) if layer.gated else (layer.linear1, layer.linear2):
            parts.matrix(dense(linear))
        parts.scale(layer.layer_scale_1)
        parts.scale(layer.layer_scale_2)
    parts.norm(model.out_norm)
    parts.matrix(dense(model.text_linear))
    parts.vector(model.text_linear.bias)
    for head in model.extra_heads:
        parts.matrix(dense(head), "exact")
    if c.dep_q:
        _depth_parts(model, parts, embed)
    return parts


def _depth_positions(c: LMConfig, parts: Parts) -> None:
    """Cosines, sines and absolute positions of the depth transformer, or nothing where it has none."""
    positions = torch.arange(max(c.dep_q, 1))
    turn = Rotation.at(positions, c.depformer_dim // c.depformer_num_heads, c.depformer_max_period, True)
    rotary, sinus = "rope" in c.depformer_pos_emb, "sin" in c.depformer_pos_emb
    parts.vector(turn.cos[:, ::2] if rotary else None)
    parts.vector(turn.sin[:, 1::2] if rotary else None)
    added = sinusoids(positions, c.depformer_dim, c.depformer_max_period, torch.float32) if sinus else None
    parts.vector(None if added is None else c.depformer_positional_scale * added)


def _depth_parts(model: DuplexLM, parts: Parts, embed: Callable[[TokenEmbedding], None]) -> None:
    positions = range(model.config.dep_q)
    parts.matrix(torch.cat([dense(model.depformer_in.at(q)) for q in positions]))
    for q in positions:
        embed(model.depth_embedding(q))
    for layer in model.depformer.layers:
        parts.norm(layer.norm1)
        parts.norm(layer.norm2)
        parts.scale(layer.layer_scale_1)
        parts.scale(layer.layer_scale_2)
        for q in positions:
            attention, gating = layer.self_attn, layer.gating.at(q) if layer.per_position else getattr(layer, "gating", None)
            parts.matrix(dense(attention.in_projs.at(q)))
            parts.matrix(dense(attention.out_projs.at(q)))
            for linear in (gating.linear_in, gating.linear_out) if layer.gated else (layer.linear1, layer.linear2):
                parts.matrix(dense(linear))
    for q in positions:
        parts.norm(model.depformer_norms[q])
        parts.matrix(dense(model.linears[q]))
        parts.vector(model.linears[q].bias)
