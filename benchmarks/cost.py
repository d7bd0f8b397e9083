"""What a frame costs before anything is measured: parameters, bytes, operations, and the time that this machine needs for them.

The roofline time is the larger of bytes over the memory bandwidth and operations over the arithmetic peak, both measured here on
one thread. The bandwidth is that of reading as many bytes as a frame reads, again and again: weights that fit a cache are read
from it, and the bound says so.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from duplex.checkpoint import LoadedModel
from duplex.codec import MimiCodec, MimiConfig, build_mimi
from duplex.config import PRESETS, LMConfig
from duplex.errors import ConfigError, InputError
from duplex.model.layers import TokenEmbedding
from duplex.model.lm import DuplexLM
from duplex.streams import StreamLayout
from duplex.testing import ByteTokenizer
from duplex.units import FRAME_SAMPLES

RANDOM_CODEC = MimiConfig(dimension=128, n_filters=16, codebook_dim=64, n_codebooks=8, cardinality=512, num_heads=4,
                          num_layers=2, dim_feedforward=512, context=32, layer_scale=0.1)


def _moshi_like(**sizes: Any) -> LMConfig:
    """The published 7B made smaller: two speakers of eight codebooks, six depth layers; a minute of context."""
    return replace(PRESETS["moshi-7b"], depformer_num_layers=6, depformer_context=8, context=750, **sizes)


SHAPES: dict[str, LMConfig] = {
    "random": replace(PRESETS["toy"], text_card=ByteTokenizer.vocab_size),
    "random-4m": PRESETS["toy"],
    "random-25m": _moshi_like(dim=256, num_heads=4, num_layers=8, card=512, text_card=4000, depformer_dim=160,
                              depformer_num_heads=5, depformer_dim_feedforward=660),
    "random-90m": _moshi_like(dim=512, num_heads=8, num_layers=10, card=1024, text_card=4000, depformer_dim=256,
                              depformer_num_heads=8, depformer_dim_feedforward=1056),
    "random-mimi": replace(PRESETS["moshi-7b"], dim=192, num_heads=6, num_layers=4, text_card=2000, context=375, depformer_dim=96,
                           depformer_num_heads=4, depformer_num_layers=2, depformer_dim_feedforward=264),
}
"""Untrained models by name, the last with a codec of the released size and the others with a small one.

They cost the time of trained ones; the seed 0 fixes their numbers.
"""


def random_lm(name: str, device: torch.device | str = "cpu", **changes: Any) -> DuplexLM:
    """The untrained language model called `name`, with `changes` to its configuration; ConfigError for another name."""
    if name not in SHAPES:
        raise ConfigError(f"no shape '{name}'; use one of {', '.join(SHAPES)}")
    torch.manual_seed(0)
    return DuplexLM(replace(SHAPES[name], **changes)).to(device).eval()


def random_codec(config: MimiConfig, books: int, device: torch.device | str = "cpu") -> MimiCodec:
    """An untrained codec whose convolutions keep the signal's size, so that its codes vary."""
    torch.manual_seed(0)
    mimi = build_mimi(config, books, device)
    for module in mimi.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            nn.init.kaiming_normal_(module.weight)
        if hasattr(module, "embedding_sum"):
            nn.init.normal_(module.embedding_sum)
    return MimiCodec(mimi, config)


def random_model(name: str = "random", device: torch.device | str = "cpu", **changes: Any) -> LoadedModel:
    """A whole untrained model with its codec; pieces of text beyond the bytes spell nothing."""
    lm = random_lm(name, device, **changes)
    books = StreamLayout.from_config(lm.config).n_system
    config = MimiConfig() if name == "random-mimi" else replace(RANDOM_CODEC, cardinality=lm.config.card)
    tokenizer = _Numbers(lm.config.text_card) if lm.config.text_card != ByteTokenizer.vocab_size else ByteTokenizer()
    return LoadedModel(lm=lm, config=lm.config, codec=random_codec(config, books, device), tokenizer=tokenizer, meta={},
                       folder=Path(name))


class _Numbers(ByteTokenizer):
    """Bytes, and pieces beyond them that spell nothing."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.vocab_size = size  # type: ignore[misc]

    def piece_bytes(self, token: int) -> bytes:
        return super().piece_bytes(token) if token < ByteTokenizer.vocab_size else b""


def static_cost(model: LoadedModel) -> dict[str, int]:
    """Numbers of parameters, a codec's with its codebooks, and bytes of different weights that a frame of one conversation reads.

    Matrices and codebooks in use count whole and once, embedding tables one row. Each book of a codec counts as its entries.
    """
    tables = {id(module.weight) for module in model.lm.modules() if isinstance(module, TokenEmbedding)}
    weights = list(model.lm.parameters())
    touched = sum((weight[0] if id(weight) in tables else weight).nbytes for weight in weights)
    codec_weights: list[torch.Tensor] = []
    unused: list[torch.Tensor] = []
    if isinstance(model.codec, MimiCodec):
        books = [module.embedding for module in model.codec.mimi.modules() if hasattr(module, "embedding_sum")]
        codec_weights, unused = [*model.codec.mimi.parameters(), *books], books[model.codec.n_codebooks :]
    return {"lm_parameters": sum(weight.numel() for weight in weights), "lm_bytes_per_frame": touched,
            "codec_parameters": sum(weight.numel() for weight in codec_weights),
            "codec_bytes_per_frame": sum(w.nbytes for w in codec_weights) - sum(w.nbytes for w in unused)}


def operations(model: LoadedModel) -> dict[str, int]:
    """Multiplications and additions of one frame: weights times two (per depth position), attention over a full context."""
    c, lm = model.config, model.lm
    per_position = 0
    for layer in lm.depformer.layers if c.dep_q else ():
        for q in range(c.dep_q):
            gating = layer.gating.at(q) if layer.per_position else layer
            members = [layer.self_attn.in_projs.at(q), layer.self_attn.out_projs.at(q)]
            per_position += sum(m.weight.numel() for m in (*members, *_linears(gating if layer.per_position else layer.gating)))
    temporal = sum(m.weight.numel() for m in _linears(lm.transformer)) + lm.text_linear.weight.numel()
    heads = sum(m.weight.numel() for m in lm.linears) + sum(lm.depformer_in.at(q).weight.numel() for q in range(c.dep_q))
    attention = 2 * c.num_layers * (c.context or 0) * c.dim
    return {"temporal_flops": 2 * (temporal + attention), "depth_flops": 2 * (per_position + heads),
            "codec_flops": 2 * _codec_products(model.codec) if isinstance(model.codec, MimiCodec) else 0}


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


@torch.no_grad()
def _codec_products(codec: MimiCodec) -> int:
    """Multiplications of one frame's encoding and decoding, counted on the way through the upstream module."""
    total, hooks = 0, []

    def count(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        places = output.shape[-1] if isinstance(module, nn.Conv1d) else inputs[0].shape[-1]
        if isinstance(module, nn.Linear):
            places = output.numel() // output.shape[-1]
        total += module.weight.numel() * places

    for module in codec.mimi.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d | nn.Linear):
            hooks.append(module.register_forward_hook(count))
    stream = MimiCodec(codec.mimi, codec.config).stream(1)  # the upstream one, whatever the backend
    codes = stream.encode_frame(torch.zeros(1, 1, FRAME_SAMPLES, device=codec.device))
    stream.decode_frame(codes)
    for hook in hooks:
        hook.remove()
    books = sum(m.embedding.numel() for m in codec.mimi.modules() if hasattr(m, "embedding_sum"))
    return total + books * codec.n_codebooks // codec.config.n_codebooks


def bandwidth(size: int, seconds: float = 0.5) -> float:
    """Bytes per second at which one thread reads `size` bytes over and over: the median of repeated reads.

    The native kernels' own reading loop where it is there, else the framework's sum.
    """
    buffer = torch.ones(max(size, 1 << 16) // 4 + 64)
    try:
        from duplex.fast.build import library

        lib = library()
        read = lambda: lib.dx_read(buffer.data_ptr(), buffer.nbytes)  # noqa: E731
    except ConfigError:
        read = buffer.sum
    return buffer.nbytes / _median(read, seconds)


def peak(seconds: float = 0.3) -> float:
    """Floating-point operations per second of one thread in a product of two matrices that fit the cache."""
    a, b = torch.randn(384, 384), torch.randn(384, 384)
    return 2 * 384**3 / _median(lambda: a @ b, seconds)


def _median(call: Any, seconds: float) -> float:
    """Median processor time of a call, in seconds: other programs on the core do not lengthen it."""
    call()
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.thread_time()
        call()
        times.append(max(time.thread_time() - start, 1e-9))
    return sorted(times)[len(times) // 2]


def weight_bytes(model: LoadedModel) -> tuple[int, int]:
    """Bytes of weights that a frame reads on the model's backend: of the language model, of the codec."""
    cost = static_cost(model)
    weights = getattr(model.engine(), "weights", None)
    lm_bytes = cost["lm_bytes_per_frame"] if weights is None else weights.parts.matrix_bytes
    return lm_bytes, cost["codec_bytes_per_frame"]


def roofline(model: LoadedModel) -> dict[str, float]:
    """Milliseconds that a frame at a full context must take on this machine: bytes, rates and times, `model` and `codec`.

    `kv_bytes` are the keys and values of a full context, `peak_gflops` 1e9 operations a second, `_gb_s` 1e9 bytes a second.
    """
    c, flops = model.config, operations(model)
    kv = 2 * c.num_layers * (c.context or 0) * (c.dim // c.kv_repeat) * 4
    lm_bytes, codec_bytes = weight_bytes(model)
    speed = peak()
    result: dict[str, float] = {"peak_gflops": round(speed / 1e9, 1), "lm_weight_bytes": lm_bytes, "kv_bytes": kv}
    for name, size, work in (("model", lm_bytes + kv, flops["temporal_flops"] + flops["depth_flops"]),
                             ("codec", codec_bytes, flops["codec_flops"])):
        if size:
            result[f"{name}_bandwidth_gb_s"] = round(bandwidth(size) / 1e9, 2)
            result[f"{name}_ms"] = round(_larger_ms(result, name, size, work), 4)
    return result


def _larger_ms(bound: dict[str, float], part: str, size: float, work: float) -> float:
    """Milliseconds for reading `size` bytes or for `work` operations, whichever is more."""
    return max(size / bound[f"{part}_bandwidth_gb_s"], work / bound["peak_gflops"]) / 1e6


def least_ms(cost: dict[str, Any], share: float = 1.0, rows: int = 1) -> float:
    """Milliseconds that a step of the model must take, of `rows` conversations with `share` of the context behind each.

    `cost` is that of a result of `benchmarks.latency`. Weights are read once for all rows; arithmetic is that of a full context.
    """
    bound = cost["roofline"]
    return _larger_ms(bound, "model", bound["lm_weight_bytes"] + rows * share * bound["kv_bytes"],
                      rows * (cost["temporal_flops"] + cost["depth_flops"]))


def least_codec_ms(cost: dict[str, Any], rows: int = 1) -> float:
    """Milliseconds that encoding and decoding a frame of so many conversations must take; its weights are read once."""
    return _larger_ms(cost["roofline"], "codec", cost["codec_bytes_per_frame"], rows * cost["codec_flops"])


def middle_context(result: dict[str, Any]) -> int:
    """Frames of context behind the middle one of the measured frames, whose time is about the median."""
    return min(result["context_frames"], result["warmup_frames"] + result["frames"] // 2)


def filled_share(result: dict[str, Any]) -> float:
    """That context as a part of the whole; 1 for a model without a limit, whose keys and values are not counted."""
    return middle_context(result) / result["context_frames"] if result["context_frames"] else 1.0


def named_model(source: str, device: torch.device | str, backend: str) -> LoadedModel:
    """A model folder or an untrained shape on a backend. InputError for an untrained shape that does not exist."""
    from duplex.checkpoint import load_model
    from duplex.fast.backends import with_backend

    if source in SHAPES:
        return with_backend(random_model(source, device), backend)
    if source.startswith("random"):
        raise InputError(f"--model {source}: no such shape; use one of {', '.join(SHAPES)}")
    return load_model(source, device, backend=backend)
