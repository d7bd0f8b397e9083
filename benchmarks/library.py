"""Well-kept libraries' kernels for rounded weights, beside our own: ONNX Runtime's product of floats with 8- or 4-bit weights.

One graph holds every matrix of a frame as a `MatMulNBits` node with the values and scales of the native kernels, activations in
float32: what the rounding costs in accuracy is the same, and a test holds the weights of both together. Run with one row the
graph takes what the products of a frame take, and nothing else: no norms, attention or sampling, all of which are in the time
of a native step.

On CUDA the same graph runs through that provider; there it is not measured.

torchao's 8-bit weights (one scale for each output, a wider rounding than ours) are there where that package is installed.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from duplex.errors import InputError
from duplex.fast.rounded import frame_linears
from duplex.model.lm import DuplexLM

GROUP = 64
KERNELS: dict[str, tuple[int | None, int]] = {
    "ort-f32": (None, 0), "ort-int8": (8, 1), "ort-int4": (4, 1), "ort-int8-a8": (8, 4), "ort-int4-a8": (4, 4)}
"""By name: bits of the weights, None for floats, and the operator's accuracy level: 1 computes in float32, 4 rounds the
activations to 8 bits as well, which costs accuracy of its own and is timed alone."""


class Products:
    """All products of one frame in one session. InputError where ONNX Runtime, or its provider for `device`, is missing."""

    def __init__(self, lm: DuplexLM, scheme: str, device: str = "cpu", threads: int = 1) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise InputError(f"--schemes {scheme}: {error}; install onnx and onnxruntime or leave the scheme out") from None
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
        if provider not in onnxruntime.get_available_providers():
            raise InputError(f"--schemes {scheme}: this ONNX Runtime has no {provider}; install its build for {device}")
        self._linears = list(frame_linears(lm))
        model = self._graph(onnx, *KERNELS[scheme])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[provider])
        self._one = self._feeds(1)

    def _graph(self, onnx: object, bits: int | None, level: int) -> object:
        helper, numpy_helper, kind = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT  # type: ignore[attr-defined]
        widths = sorted({module.in_features for _, module in self._linears})
        inputs = [helper.make_tensor_value_info(f"x{width}", kind, ["rows", width]) for width in widths]
        outputs = [helper.make_tensor_value_info(f"y{i}", kind, ["rows", m.out_features])
                   for i, (_, m) in enumerate(self._linears)]
        weights, nodes = [], []
        for i, (_, m) in enumerate(self._linears):
            weight_OI = m.weight.detach().float().cpu().numpy()
            if bits is None:
                weights.append(numpy_helper.from_array(np.ascontiguousarray(weight_OI.T), f"w{i}"))
                nodes.append(helper.make_node("MatMul", [f"x{m.in_features}", f"w{i}"], [f"y{i}"]))
                continue
            stored, scales = pack(weight_OI, bits)
            weights += [numpy_helper.from_array(stored, f"w{i}"), numpy_helper.from_array(scales.reshape(-1), f"s{i}")]
            nodes.append(helper.make_node(
                "MatMulNBits", [f"x{m.in_features}", f"w{i}", f"s{i}"], [f"y{i}"], domain="com.microsoft", K=m.in_features,
                N=m.out_features, bits=bits, block_size=GROUP, accuracy_level=level))
        graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
        sets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=sets, ir_version=10)

    def _feeds(self, rows: int) -> dict[str, np.ndarray]:
        return {x.name: np.ones((rows, x.shape[1]), dtype=np.float32) for x in self._session.get_inputs()}

    def frame(self) -> None:
        """The products of one frame of one conversation."""
        self._session.run(None, self._one)

    def weights(self) -> dict[str, Tensor]:
        """The weights [out, in] that the library computes with, by the name of their layer."""
        found: dict[str, Tensor] = {}
        for i, (name, module) in enumerate(self._linears):  # one at a time: all of them at once would be many times the model
            width = module.in_features
            feeds = {x: np.eye(width, ones.shape[1], dtype=np.float32) for x, ones in self._one.items()}
            found[name] = torch.from_numpy(self._session.run([f"y{i}"], feeds)[0].T.copy())
        return found


class Torchao:
    """The same products by torchao's 8-bit weights and float activations; InputError where it is missing or does not fit."""

    def __init__(self, lm: DuplexLM) -> None:
        try:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
        except ImportError as error:
            raise InputError(f"torchao-int8: left out, {error}; install a torchao made for torch {torch.__version__}") from None
        copies = {name.replace(".", "-"): copy.deepcopy(module) for name, module in frame_linears(lm)}
        self._layers = nn.ModuleDict(copies).requires_grad_(False).eval()
        for layer in self._layers.values():
            layer.bias = None  # type: ignore[assignment]
        quantize_(self._layers, Int8WeightOnlyConfig())
        self._inputs = [torch.ones(1, layer.in_features, device=lm.text_linear.weight.device) for layer in self._layers.values()]

    @torch.no_grad()
    def frame(self) -> None:
        """The products of one frame of one conversation."""
        for layer, x in zip(self._layers.values(), self._inputs, strict=True):
            layer(x)

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """The weights [out, in] that the library computes with, by the name of their layer."""
        return {name.replace("-", "."): layer(torch.eye(layer.in_features)).T for name, layer in self._layers.items()}


def pack(weight_OI: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The operator's form of a weight float32 [out, in]: uint8 [out, blocks, bytes] and scales float32 [out, blocks].

    Each block of inputs is divided by its largest absolute value over 127 or 7 and rounded, as in the native kernels; what is
    stored counts from the middle of the range, two 4-bit values in a byte, the first one low.
    """
    outputs, inputs = weight_OI.shape
    blocks, limit = -(-inputs // GROUP), 2 ** (bits - 1) - 1
    padded = np.zeros((outputs, blocks * GROUP), dtype=np.float32)
    padded[:, :inputs] = weight_OI
    padded = padded.reshape(outputs, blocks, GROUP)
    most = np.abs(padded).max(-1, keepdims=True)
    scales = np.where(most > 0, most / np.float32(limit), np.float32(1)).astype(np.float32)
    stored = (np.rint(padded / scales) + 2 ** (bits - 1)).astype(np.uint8)
    if bits == 4:
        stored = stored[..., ::2] | stored[..., 1::2] << 4
    return stored, scales[..., 0]
