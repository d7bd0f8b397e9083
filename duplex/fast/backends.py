"""The ways to compute a step, by name. Nothing is chosen in silence: what runs is logged, and what cannot run is refused.

    naive         the plain engine and the upstream codec: the reference that everything else is tested against
    native        C++ kernels for model and codec, weights as they are: greedy tokens and codes of the reference (CPU)
    native-int8   the same with the model's weights rounded to 8 bits, one scale for 64 inputs; the codec stays exact
    native-int4   likewise with 4 bits
    torchao-int8  the model's weights in a library's 8 bits, one scale an output; the upstream codec (CPU; CUDA: not measured)
    torchao-int4  likewise 4 bits, scale and zero for 64 inputs, products in bfloat16; on CUDA both are recorded as by `graph`
    compiled      the frame as one graph, compiled ahead of time by AOTInductor and kept on disk; native codec on the CPU
    graph         the frame as one CUDA graph; the codec with its own (CUDA only; not measured here)
    auto          native where a C++ compiler and a float32 model on the CPU allow it, else naive; says which and why
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

import torch

from duplex.codec import Codec, MimiCodec
from duplex.config import SamplingConfig
from duplex.engine import Engine
from duplex.errors import ConfigError
from duplex.model.lm import DuplexLM

if TYPE_CHECKING:
    from duplex.checkpoint import LoadedModel

BACKENDS = ("naive", "native", "native-int8", "native-int4", "torchao-int8", "torchao-int4", "compiled", "graph")
_SCHEMES = {"native": "exact", "native-int8": "int8", "native-int4": "int4"}
_LIBRARY = {"torchao-int8": "int8", "torchao-int4": "int4"}
_log = logging.getLogger(__name__)


def make_engine(lm: DuplexLM, sampling: SamplingConfig | None = None, backend: str = "naive") -> Engine:
    """A streaming engine for `lm`. Raises ConfigError for an unknown backend and for one that cannot run it."""
    backend = choose(backend, lm)
    if backend == "naive":
        return Engine(lm, sampling)
    if backend == "compiled":
        from duplex.fast.compiled import CompiledEngine

        return CompiledEngine(lm, sampling)
    if backend == "graph":
        from duplex.fast.graph import GraphEngine

        return GraphEngine(lm, sampling)
    if backend in _LIBRARY:
        from duplex.fast.graph import GraphEngine
        from duplex.fast.rounded import rounded

        twin = rounded(lm, _LIBRARY[backend])
        return GraphEngine(twin, sampling) if lm.text_linear.weight.device.type == "cuda" else Engine(twin, sampling)
    from duplex.fast.lm import NativeEngine

    return NativeEngine(lm, sampling, _SCHEMES[backend])


def make_codec(codec: Codec, backend: str = "naive") -> Codec:
    """`codec` on a backend; one that is no Mimi, or lies on an accelerator, stays as it is."""
    if backend in ("naive", "graph", *_LIBRARY) or not isinstance(codec, MimiCodec) or codec.device.type != "cpu":
        return codec
    from duplex.fast.codec import NativeCodec

    return codec if isinstance(codec, NativeCodec) else NativeCodec(codec)


def with_backend(model: LoadedModel, backend: str) -> LoadedModel:
    """`model` with its steps and its codec's streams on `backend`; weights are shared. ConfigError as `make_engine`."""
    backend = choose(backend, model.lm)
    if backend == model.backend:
        return model
    _log.info("backend %s", backend)
    if backend != "naive":
        make_engine(model.lm, None, backend)  # packs the weights now and not within the first session
    return dataclasses.replace(model, codec=make_codec(model.codec, backend), backend=backend)


def choose(backend: str, lm: DuplexLM) -> str:
    """`backend`, or for "auto" the fastest exact one that runs here, with the reason in the log. ConfigError if unknown."""
    if backend in BACKENDS:
        return backend
    if backend != "auto":
        raise ConfigError(f"backend: unknown name '{backend}'; use auto, {', '.join(BACKENDS)}")
    weight = lm.text_linear.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        _log.info("backend naive: the model is %s on %s, the native kernels need float32 on the CPU", weight.dtype, weight.device)
        return "naive"
    from duplex.fast.build import library

    try:
        library()
    except ConfigError as error:
        _log.warning("backend naive, several times slower than native: %s", error)
        return "naive"
    return "native"
