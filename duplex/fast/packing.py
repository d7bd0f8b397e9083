"""Weights in the form that the native kernels read, and the list of a model's parts that is handed over to them.

A matrix is packed once, in one of five formats. 16-bit formats are exact for weights that were stored in 16 bits, which
"exact" finds out by trying; integers have one scale for each output and 64 inputs and cost some accuracy.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from duplex.fast.build import library
from duplex.model.layers import LayerNormFloat32, LayerScale, RMSNorm
from duplex.model.lm import DuplexLM
from duplex.model.lora import LoRALinear, merged_weight

FORMATS = {"f32": 0, "f16": 1, "bf16": 2, "int8": 3, "int4": 4}


def exact_format(weight: Tensor) -> str:
    """The smallest of f16, bf16 and f32 that holds every value of float32 `weight` as it is."""
    for name, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        if torch.equal(weight.to(dtype).float(), weight):
            return name
    return "f32"


def dense(layer: nn.Linear) -> Tensor:
    """The weight [out, in] of a linear layer, with its adapter worked in where it has one."""
    if isinstance(layer, LoRALinear):
        return merged_weight(layer.weight, layer.lora_A.weight, layer.lora_B.weight, layer.scaling)
    return layer.weight


def version_of(model: DuplexLM) -> tuple:
    """What packed weights of `model` were made from; another type or device, or a change of any parameter, makes it different."""
    weight = model.text_linear.weight
    return weight.dtype, weight.device, sum(_changes(p) for p in model.parameters())


def _changes(p: Tensor) -> int:
    """A number that another tensor, or a change in place, makes different; inference tensors do not count theirs."""
    return p.data_ptr() + (0 if p.is_inference() else p._version)


class Matrix:
    """A weight [outputs, inputs], packed; `scheme` is "exact" or a name in FORMATS."""

    def __init__(self, weight: Tensor, scheme: str = "exact") -> None:
        weight = weight.detach().float().contiguous()
        self.outputs, self.inputs = weight.shape
        self.format = exact_format(weight) if scheme == "exact" else scheme
        lib = library()
        self.handle = lib.dx_matrix(FORMATS[self.format], self.outputs, self.inputs, weight.data_ptr())
        if not self.handle:
            raise MemoryError(f"no memory for a matrix of {self.outputs} by {self.inputs}")
        self.nbytes = int(lib.dx_matrix_bytes(self.handle))
        weakref.finalize(self, lib.dx_matrix_free, self.handle)

    def multiply(self, x_NI: Tensor) -> Tensor:
        """x [N, inputs] float32 -> [N, outputs]."""
        x_NI = x_NI.contiguous()
        y_NO = x_NI.new_empty(len(x_NI), self.outputs)
        library().dx_matrix_multiply(self.handle, x_NI.data_ptr(), len(x_NI), y_NO.data_ptr())
        return y_NO


class Parts:
    """Numbers, vectors and matrices of a model in the order in which its C++ constructor reads them."""

    def __init__(self, scheme: str = "exact") -> None:
        self.scheme = scheme
        self.ints: list[int] = []
        self.floats: list[float] = []
        self.vectors: list[Tensor | None] = []
        self.matrices: list[Matrix] = []
        self._packed: dict[int, tuple[Tensor, Matrix]] = {}

    def vector(self, value: Tensor | None) -> None:
        self.vectors.append(None if value is None else value.detach().float().contiguous().flatten())

    def table(self, value: Tensor | None) -> None:
        """Entries by id: a copy only where the values are not float32 already."""
        self.vectors.append(None if value is None else value.detach().float().contiguous())

    def matrix(self, weight: Tensor, scheme: str | None = None) -> None:
        """Packs `weight`; one that was given before is not packed again."""
        if id(weight) not in self._packed:
            self._packed[id(weight)] = (weight, Matrix(weight, scheme or self.scheme))
        self.matrices.append(self._packed[id(weight)][1])

    def norm(self, module: nn.Module) -> None:
        """Weight and bias of a norm; two nothings for an identity."""
        if isinstance(module, RMSNorm):
            self.vector(module.alpha)
            self.vector(None)
        elif isinstance(module, (LayerNormFloat32, nn.LayerNorm)):
            self.vector(module.weight)
            self.vector(module.bias)
        else:
            self.vector(None)
            self.vector(None)

    def scale(self, module: nn.Module) -> None:
        self.vector(module.scale if isinstance(module, LayerScale) or hasattr(module, "scale") else None)

    def build(self, constructor: str) -> int:
        """The handle of the C++ object; the parts must outlive it."""
        pointers = [None if v is None else v.data_ptr() for v in self.vectors]
        return getattr(library(), constructor)(
            _array(ctypes.c_int64, self.ints), _array(ctypes.c_float, self.floats), _array(ctypes.c_void_p, pointers),
            _array(ctypes.c_void_p, [m.handle for m in self.matrices]))

    def forget_sources(self) -> None:
        """Lets go of the weights that were packed."""
        self._packed.clear()

    @property
    def matrix_bytes(self) -> int:
        """Memory of all different matrices."""
        return sum(m.nbytes for m in {id(m): m for m in self.matrices}.values())

    @property
    def formats(self) -> list[str]:
        """The formats in use, most common first."""
        found = [m.format for m in self.matrices]
        return sorted(set(found), key=lambda name: -found.count(name))


def _array(kind: type, values: Sequence) -> ctypes.Array:
    return (kind * max(len(values), 1))(*values)
