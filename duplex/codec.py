"""Audio codec: 80 ms of speech to one column of codes and back.

`Codec` and `CodecStream` are what the rest of the product sees. `MimiCodec` is the Mimi architecture (Moshi paper,
arXiv:2410.00037, section 3.3) as built by the `moshi` package; this is the only file that imports it.

Shapes: pcm [B, 1, S] float32 at 24 kHz; codes [B, K, T] int64 with T = S / 1920; row 0 is the semantic codebook.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from duplex.errors import ConfigError, InputError
from duplex.filling import fill_module, no_memory
from duplex.overlay import build_fields
from duplex.safefile import read_header
from duplex.units import FRAME_RATE, FRAME_SAMPLES, SAMPLE_RATE


class CodecStream(Protocol):
    """One running pair of encoder and decoder for B rows; a value that can be cloned."""

    batch_size: int

    def encode_frame(self, pcm: Tensor, active: Tensor | None = None) -> Tensor:
        """pcm [B, 1, 1920] -> codes [B, K]. Rows where `active` (bool [B]) is False keep their state and get anything."""
        ...

    def decode_frame(self, codes: Tensor, active: Tensor | None = None) -> Tensor:
        """codes [B, K] -> pcm [B, 1, 1920]; `active` as above, but its other rows need valid codes, too."""
        ...

    def reset_rows(self, mask: Tensor) -> None:
        """Start the rows where mask [B] is True afresh."""
        ...

    def clone(self) -> CodecStream:
        """An independent copy that continues from the same state."""
        ...

    def to_dict(self) -> dict[str, Tensor]:
        """The state as named tensors (not copies), for storing."""
        ...

    def load_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from a stored state; raises InputError when it is not that of such a stream."""
        ...


class Codec(Protocol):
    """A frame-synchronous neural audio codec."""

    sample_rate: int
    frame_samples: int
    n_codebooks: int
    cardinality: int

    def encode(self, pcm: Tensor) -> Tensor:
        """pcm [B, 1, S], S a multiple of 1,920 -> codes [B, K, S / 1920]."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, K, T] -> pcm [B, 1, T * 1920]."""
        ...

    def stream(self, batch_size: int) -> CodecStream:
        """A fresh stream of ``batch_size`` rows."""
        ...


@dataclass(frozen=True)
class MimiConfig:
    """Size of a Mimi-architecture codec; the defaults are the released one (96 M parameters, 12.5 Hz, 32 x 2048)."""

    dimension: int = 512
    """Width of the latent, of both transformers and of the convolution bottleneck's output."""
    n_filters: int = 64
    """Channels of the first convolution; doubled at each of the four strides."""
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    """Decoder strides; their product times the last stride of 2 must be 1,920."""
    n_residual_layers: int = 1
    kernel_size: int = 7
    residual_kernel_size: int = 3
    last_kernel_size: int = 3
    compress: int = 2
    dilation_base: int = 2
    codebook_dim: int = 256
    n_codebooks: int = 32
    """Codebooks in the file; a model may use the first few of them."""
    cardinality: int = 2048
    num_heads: int = 8
    num_layers: int = 8
    dim_feedforward: int = 2048
    context: int = 250
    """Attention window of both transformers, in 40 ms steps."""
    max_period: int = 10000
    layer_scale: float = 0.01

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "mimi config") -> MimiConfig:
        """Strict: unknown keys, wrong types and sizes that do not give frames of 1,920 samples are ConfigErrors."""
        config = build_fields(cls, values, source)
        for key, value in config.to_dict().items():
            if min(value if isinstance(value, list) else [value]) <= 0:
                raise ConfigError(f"{source}: codec key {key!r} has the value {value!r}; use a positive number")
        hop = 2
        for ratio in config.ratios:
            hop *= ratio
        if hop != FRAME_SAMPLES:
            raise ConfigError(
                f"{source}: ratios {list(config.ratios)} give frames of {hop} samples; they must give {FRAME_SAMPLES}")
        return config

    def to_dict(self) -> dict[str, Any]:
        """Plain values for config.json."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def upstream(self) -> dict[str, Any]:
        """The nested keyword arguments that the `moshi` package builds Mimi from."""
        seanet = dict(
            channels=1, dimension=self.dimension, causal=True, n_filters=self.n_filters,
            n_residual_layers=self.n_residual_layers, activation="ELU", compress=self.compress,
            dilation_base=self.dilation_base, disable_norm_outer_blocks=0, kernel_size=self.kernel_size,
            residual_kernel_size=self.residual_kernel_size, last_kernel_size=self.last_kernel_size,
            norm="none", pad_mode="constant", ratios=list(self.ratios), true_skip=True,
        )
        quantizer = dict(
            dimension=self.codebook_dim, n_q=self.n_codebooks, bins=self.cardinality,
            input_dimension=self.dimension, output_dimension=self.dimension,
        )
        transformer = dict(
            d_model=self.dimension, num_heads=self.num_heads, num_layers=self.num_layers, causal=True,
            layer_scale=self.layer_scale, context=self.context, conv_layout=True, max_period=self.max_period,
            gating="none", norm="layer_norm", positional_embedding="rope", dim_feedforward=self.dim_feedforward,
            input_dimension=self.dimension, output_dimensions=[self.dimension],
        )
        return dict(sample_rate=SAMPLE_RATE, channels=1, frame_rate=FRAME_RATE, seanet=seanet, quantizer=quantizer,
                    transformer=transformer)


def build_mimi(config: MimiConfig, n_codebooks: int | None = None, device: str | torch.device = "cpu") -> torch.nn.Module:
    """A `moshi` MimiModel of the given size with random weights, in eval mode."""
    from moshi.models.loaders import get_mimi

    return get_mimi(None, config.upstream(), device=device, num_codebooks=n_codebooks or config.n_codebooks)


class MimiCodec:
    """Mimi behind the `Codec` protocol.

    The upstream module keeps its streaming state inside itself; here each stream owns its state and lends it to the
    shared module for the time of one call, so that any number of streams share one set of weights.
    """

    sample_rate = SAMPLE_RATE
    frame_samples = FRAME_SAMPLES

    def __init__(self, mimi: torch.nn.Module, config: MimiConfig):
        self.mimi = mimi.eval().requires_grad_(False)
        self.config = config
        # The codebooks are stored as sums and counts; the division is cached once here, since a lazily made cache
        # is a tensor that would otherwise appear in the middle of the first frame.
        for module in self.mimi.modules():
            if hasattr(module, "embedding_sum"):
                _ = module.embedding

    @classmethod
    def from_files(cls, weights: str | Path, config: MimiConfig | None = None, n_codebooks: int = 8,
                   device: str | torch.device = "cpu") -> MimiCodec:
        """Load safetensors weights; ``config`` None means the released configuration.

        Raises CheckpointError naming the file when it is damaged or its weights do not fit, before any memory
        is taken for them, and ConfigError when the codec has fewer than ``n_codebooks``.
        """
        config = config or MimiConfig()
        if n_codebooks > config.n_codebooks:
            raise ConfigError(
                f"{weights}: the model needs {n_codebooks} codebooks but the codec has {config.n_codebooks}")
        header = read_header(weights)
        sizes = {key: value for key, value in config.to_dict().items() if isinstance(value, int)}
        counted = ("n_codebooks", "num_layers", "n_residual_layers")  # each has tensors of its own
        for key, value in sizes.items():
            if value > (len(header.tensors) if key in counted else 1_000_000):
                raise ConfigError(f"{weights}: no codec with {key} = {value}; check the codec configuration")
        with no_memory():
            mimi = build_mimi(config, n_codebooks, "meta")
        fill_module(mimi, header, device, torch.float32, "its codec configuration")
        return cls(mimi, config)

    @property
    def n_codebooks(self) -> int:
        """Codebooks in use (K)."""
        return self.mimi.num_codebooks

    @property
    def cardinality(self) -> int:
        """Entries of each codebook."""
        return self.mimi.cardinality

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.mimi.parameters()).device

    @torch.no_grad()
    def encode(self, pcm: Tensor) -> Tensor:
        """pcm [B, 1, S], S a multiple of 1,920 -> codes [B, K, S / 1920]; raises InputError on another shape."""
        if pcm.dim() != 3 or pcm.shape[1] != 1 or pcm.shape[2] % FRAME_SAMPLES or pcm.shape[2] == 0:
            raise InputError(
                f"codec input has shape {list(pcm.shape)}; give [batch, 1, samples] with whole frames of {FRAME_SAMPLES}")
        return self.mimi.encode(pcm)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, K, T] -> pcm [B, 1, T * 1920]; raises InputError on another shape or an entry outside the codebook."""
        self._check_codes(codes, 3)
        return self.mimi.decode(codes)

    def stream(self, batch_size: int) -> MimiStream:
        """A fresh stream of ``batch_size`` rows."""
        return MimiStream(self, batch_size)

    def _check_codes(self, codes: Tensor, dims: int) -> None:
        if codes.dim() != dims or codes.shape[1] != self.n_codebooks:
            raise InputError(f"codes have shape {list(codes.shape)}; the codec uses {self.n_codebooks} codebooks")
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.cardinality):
            raise InputError(f"a code lies outside 0..{self.cardinality - 1}; check that model and codec belong together")


class MimiStream:
    """Streaming state of one MimiCodec: convolution tails, attention caches and overlap-add remainders of B rows."""

    def __init__(self, codec: MimiCodec, batch_size: int, state: dict[str, Any] | None = None):
        self.codec, self.batch_size = codec, batch_size
        if state is None:
            with codec.mimi.streaming(batch_size):
                state = codec.mimi.get_streaming_state()
        self._state = state
        self._masked = False  # does the state hold a mask other than "every row"?

    @torch.no_grad()
    def encode_frame(self, pcm: Tensor, active: Tensor | None = None) -> Tensor:
        """pcm [B, 1, 1920] -> codes [B, K]; raises InputError on another shape."""
        if list(pcm.shape) != [self.batch_size, 1, FRAME_SAMPLES]:
            raise InputError(f"one codec frame is [{self.batch_size}, 1, {FRAME_SAMPLES}] but {list(pcm.shape)} was given")
        with self._lent() as mimi:
            self._mask(mimi, active)
            return mimi.encode(pcm)[:, :, 0]

    @torch.no_grad()
    def decode_frame(self, codes: Tensor, active: Tensor | None = None) -> Tensor:
        """codes [B, K] -> pcm [B, 1, 1920]; raises InputError on another shape or an entry outside the codebook."""
        self.codec._check_codes(codes, 2)
        with self._lent() as mimi:
            self._mask(mimi, active)
            return mimi.decode(codes[:, :, None])

    @torch.no_grad()
    def reset_rows(self, mask: Tensor) -> None:
        """Start the rows where mask [B] bool is True afresh."""
        with self._lent() as mimi:
            mimi.reset_streaming(mask)

    def clone(self) -> MimiStream:
        """An independent copy that continues from the same state."""
        twin = MimiStream(self.codec, self.batch_size, {k: _copy_state(v) for k, v in self._state.items()})
        twin._masked = self._masked
        return twin

    def to_dict(self) -> dict[str, Tensor]:
        """The state as named tensors (not copies), for storing."""
        return {key: torch.as_tensor(getattr(owner, name)) for key, owner, name in _leaves(self._state)}

    def load_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from a stored state; raises InputError when it is not that of such a stream."""
        leaves = list(_leaves(self._state))
        mine = self.to_dict()
        if {key: (value.shape, value.dtype) for key, value in tensors.items()} != {
                key: (value.shape, value.dtype) for key, value in mine.items()}:
            raise InputError("the stored codec state is that of another codec or batch size; use the codec it was stored with")
        for key, owner, name in leaves:
            old = getattr(owner, name)
            new = tensors[key]
            setattr(owner, name, new.to(old.device, copy=True) if isinstance(old, Tensor) else int(new))
        self._masked = True  # not known: the next call sets it anew

    def _mask(self, mimi: Any, active: Tensor | None) -> None:
        """Tells the lent module which rows take part in the next call."""
        if active is not None or self._masked:
            mimi.set_exec_mask(torch.ones(self.batch_size, dtype=torch.bool) if active is None else active)
        self._masked = active is not None

    def _lent(self) -> _Lent:
        return _Lent(self.codec.mimi, self._state)


class _Lent:
    """Puts a stream's state into the module for the time of a `with` block."""

    def __init__(self, mimi: torch.nn.Module, state: dict[str, Any]):
        self.mimi, self.state = mimi, state

    def __enter__(self) -> Any:
        self.mimi.set_streaming_state(self.state)
        return self.mimi

    def __exit__(self, *_: object) -> None:
        self.mimi._stop_streaming()


def _leaves(states: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """(key, owner, attribute) of every tensor and counter in the states of a stream."""
    for module, state in states.items():
        for name, value in vars(state).items():
            if isinstance(value, Tensor) or name == "offset_cpu":
                yield f"{module}.{name}", state, name
            elif type(value).__name__ == "RingKVCache":
                yield from ((f"{module}.{name}.{inner}", value, inner) for inner in ("cache", "end_offset"))


def _copy_state(state: Any) -> Any:
    """Copy a state object: its tensors are cloned, nested caches too, compiled-graph wrappers stay shared."""
    if isinstance(state, Tensor):
        return state.clone()
    if not hasattr(state, "__dict__") or callable(state):
        return state
    twin = copy.copy(state)
    for name, value in vars(state).items():
        if isinstance(value, Tensor) or type(value).__name__ == "RingKVCache":
            setattr(twin, name, _copy_state(value))
    return twin
