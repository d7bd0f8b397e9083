"""The Mimi codec on native kernels: a `Codec` whose streams run each 80 ms in two calls, one to encode and one to decode.

Codes are those of the upstream streaming module, except where two entries of a codebook are equally near to seven digits. Whole
recordings (`encode`, `decode`) still go through the upstream module.

B batch rows, K codebooks.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from duplex.codec import MimiCodec
from duplex.errors import ConfigError, InputError
from duplex.fast.build import library
from duplex.fast.packing import Parts
from duplex.units import FRAME_SAMPLES

_CONV, _TRANSPOSED, _RESIDUAL = range(3)


class NativeCodec(MimiCodec):
    """`MimiCodec` with streams in C++. Shares the weights of `codec`, which is left as it is.

    Raises ConfigError for a codec that is not on the CPU or has parts that the kernels do not know.
    """

    def __init__(self, codec: MimiCodec) -> None:
        super().__init__(codec.mimi, codec.config)
        if codec.device.type != "cpu":
            raise ConfigError(f"backend native: the codec is on {codec.device}; load it on the CPU")
        if codec.config.context < 2:
            raise ConfigError("backend native: a codec with a context of 1 is not supported; choose the backend 'naive'")
        self.parts = _parts(codec)
        self.handle = self.parts.build("dx_mimi")
        self.parts.forget_sources()
        weakref.finalize(self, library().dx_mimi_free, self.handle)
        self.state_sizes = tuple(library().dx_mimi_state(self.handle, half) for half in (0, 1))

    def stream(self, batch_size: int) -> NativeStream:
        """A fresh stream of ``batch_size`` rows."""
        frames = torch.zeros(2, batch_size, dtype=torch.long)
        return NativeStream(self, [torch.zeros(batch_size, size) for size in self.state_sizes], frames)


class NativeStream:
    """State of a running encoder and decoder: convolution tails, keys and values, all rows' floats in two tensors."""

    def __init__(self, codec: NativeCodec, states: list[Tensor], frames_2B: Tensor) -> None:
        self.codec, self.batch_size = codec, frames_2B.shape[1]
        self._states, self._frames = states, frames_2B

    def encode_frame(self, pcm: Tensor, active: Tensor | None = None) -> Tensor:
        """pcm [B, 1, 1920] -> codes [B, K]; raises InputError on another shape. Rows that are not `active` get zeros."""
        if list(pcm.shape) != [self.batch_size, 1, FRAME_SAMPLES]:
            raise InputError(f"one codec frame is [{self.batch_size}, 1, {FRAME_SAMPLES}] but {list(pcm.shape)} was given")
        pcm = pcm.detach().to("cpu", torch.float32).contiguous()
        codes = torch.zeros(self.batch_size, self.codec.n_codebooks, dtype=torch.long)
        active = self._mask(active)
        library().dx_mimi_encode(self.codec.handle, self.batch_size, pcm.data_ptr(), self._states[0].data_ptr(),
                                 self._frames[0].data_ptr(), codes.data_ptr(), None if active is None else active.data_ptr())
        return codes

    def decode_frame(self, codes: Tensor, active: Tensor | None = None) -> Tensor:
        """codes [B, K] -> pcm [B, 1, 1920]; raises InputError on another shape or an entry outside the codebook."""
        self.codec._check_codes(codes, 2)
        if len(codes) != self.batch_size:
            raise InputError(f"codes have {len(codes)} rows but the stream has {self.batch_size}")
        codes = codes.to("cpu", torch.long).contiguous()
        pcm = torch.zeros(self.batch_size, 1, FRAME_SAMPLES)
        active = self._mask(active)
        library().dx_mimi_decode(self.codec.handle, self.batch_size, codes.data_ptr(), self._states[1].data_ptr(),
                                 self._frames[1].data_ptr(), pcm.data_ptr(), None if active is None else active.data_ptr())
        return pcm

    def _mask(self, active: Tensor | None) -> Tensor | None:
        if active is None or list(active.shape) == [self.batch_size]:
            return None if active is None else active.to("cpu", torch.bool).contiguous()
        raise InputError(f"active has shape {list(active.shape)}; give [{self.batch_size}]")

    def reset_rows(self, mask: Tensor) -> None:
        """Start the rows where mask [B] bool is True afresh."""
        mask = mask.cpu()
        self._frames[:, mask] = 0
        for state in self._states:
            state[mask] = 0

    def clone(self) -> NativeStream:
        """An independent copy that continues from the same state."""
        return NativeStream(self.codec, [state.clone() for state in self._states], self._frames.clone())

    def to_dict(self) -> dict[str, Tensor]:
        """The state as named tensors (not copies), for storing."""
        return {"encoder": self._states[0], "decoder": self._states[1], "frames": self._frames}

    def load_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from a stored state; raises InputError when it is not that of such a stream."""
        mine = {name: (value.shape, value.dtype) for name, value in self.to_dict().items()}
        if {name: (value.shape, value.dtype) for name, value in tensors.items()} != mine:
            raise InputError("the stored codec state is that of another codec, backend or batch size; use that one")
        self._states = [tensors[name].to("cpu", copy=True).contiguous() for name in ("encoder", "decoder")]
        self._frames = tensors["frames"].to("cpu", copy=True).contiguous()


@torch.no_grad()
def _parts(codec: MimiCodec) -> Parts:
    """Everything that `Mimi::Mimi` in native/mimi.cpp reads, in its order."""
    mimi, c, parts = codec.mimi, codec.config, Parts("f32")
    head = c.dimension // c.num_heads
    parts.ints += [c.dimension, c.num_heads, c.context, codec.n_codebooks, c.codebook_dim, c.cardinality]
    parts.floats.append(1e-5)
    parts.vector(torch.exp(torch.arange(head // 2, dtype=torch.float32) * (-math.log(c.max_period) * 2 / head)))
    parts.vector(mimi.upsample.convtr.convtr.convtr.weight[:, 0].T)
    for network, transformer in ((mimi.encoder, mimi.encoder_transformer), (mimi.decoder, mimi.decoder_transformer)):
        layers = transformer.transformer.layers
        parts.ints.append(len(layers))
        _convolutions(network.model, parts)
        for layer in layers:
            parts.norm(layer.norm1)
            parts.norm(layer.norm2)
            for linear in (layer.self_attn.in_projs[0], layer.self_attn.out_projs[0], layer.linear1, layer.linear2):
                parts.matrix(linear.weight)
            parts.scale(layer.layer_scale_1)
            parts.scale(layer.layer_scale_2)
    _conv(mimi.downsample.conv, parts, elu=False)
    first, rest = mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest
    for quantizer in (first, rest):
        parts.matrix(quantizer.input_proj.weight[:, :, 0])
    books = [(quantizer, layer) for quantizer in (first, rest) for layer in quantizer.vq.layers]
    for quantizer, layer in books[: codec.n_codebooks]:
        entries = layer.embedding
        parts.matrix(entries)
        parts.vector(-0.5 * entries.double().square().sum(1))
        parts.table(entries)
        parts.table(entries @ quantizer.output_proj.weight[:, :, 0].T)
    return parts


def _convolutions(model: nn.Sequential, parts: Parts) -> None:
    """The number of operations of an encoder or decoder, then each with its kind and convolutions."""
    at = len(parts.ints)
    parts.ints.append(0)
    elu = False
    for module in model:
        kind = type(module).__name__
        if kind == "ELU":
            elu = True
            continue
        if kind == "SEANetResnetBlock":
            convolutions = [inner for inner in module.block if type(inner).__name__ == "StreamingConv1d"]
            if len(convolutions) != 2 or not isinstance(module.shortcut, nn.Identity):
                raise ConfigError("backend native: this codec's residual blocks are not Mimi's; choose the backend 'naive'")
            parts.ints.append(_RESIDUAL)
            for convolution in convolutions:
                _conv(convolution, parts, elu=True)
        elif kind in ("StreamingConv1d", "StreamingConvTranspose1d"):
            parts.ints.append(_CONV if kind == "StreamingConv1d" else _TRANSPOSED)
            _conv(module, parts, elu)
        else:
            raise ConfigError(f"backend native: this codec has a part {kind} that is not Mimi's; choose the backend 'naive'")
        elu = False
        parts.ints[at] += 1


def _conv(module: nn.Module, parts: Parts, elu: bool) -> None:
    """One causal convolution as a matrix over windows [outputs, kernel * inputs]."""
    if hasattr(module, "convtr"):
        conv = module.convtr.convtr
        stride, (inputs, outputs, kernel) = conv.stride[0], conv.weight.shape
        if kernel != 2 * stride or conv.groups != 1:
            raise ConfigError("backend native: this codec's transposed convolutions are not Mimi's; choose the backend 'naive'")
        # Output step j of an input step: taps j + stride on the step before and j on the step itself.
        late, early = conv.weight[..., stride:], conv.weight[..., :stride]
        weight = torch.cat([late.permute(2, 1, 0).flatten(0, 1), early.permute(2, 1, 0).flatten(0, 1)], 1)
        parts.ints += [inputs, outputs, 2, 1, 1, stride, elu]
        bias = None if conv.bias is None else conv.bias.repeat(stride)
    else:
        conv = module.conv.conv
        outputs, inputs, kernel = conv.weight.shape
        if conv.groups != 1:
            raise ConfigError("backend native: this codec's convolutions are not Mimi's; choose the backend 'naive'")
        weight, bias = conv.weight.permute(0, 2, 1).flatten(1), conv.bias
        parts.ints += [inputs, outputs, kernel, conv.stride[0], conv.dilation[0], 1, elu]
    parts.matrix(weight)
    parts.vector(bias)
