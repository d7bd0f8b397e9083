"""Modules filled from safetensors files, the header compared with the module before anything is read.

Before memory is taken the whole file is looked through for values that are not finite. Then tensor after tensor is read,
converted and put in place of an empty one: the peak is one copy of the module plus one tensor.

Attention projections come stacked over weight sets (`in_proj_weight` [sets * out, in], published files) or
one by one (`in_projs.{i}.weight`, fine-tuned files), and old codecs use other names for the codebooks' sums;
all of these are read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from duplex.safefile import Header, TensorReader, check_against, check_finite, require_finite

_STACKED = re.compile(r"(.*self_attn\.)(in|out)_proj(?:_weight|\.weight)")
_MEMBER = re.compile(r"(.*self_attn\.)(in|out)_projs\.\d+\.weight")
_OLD_NAMES = {"_initialized": ("inited",), "cluster_usage": ("cluster_size",),
              "embedding_sum": ("embed_avg", "embed_sum")}


_INITIALISATIONS = frozenset(
    getattr(Tensor, name) for name in ("uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_"))


class _WithoutNumbers(TorchFunctionMode):
    """Leaves tensors without memory as they are when an initialisation would fill them."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _INITIALISATIONS or getattr(func, "__module__", None) == nn.init.__name__:
            target = args[0] if args else kwargs["tensor"]
            if target.is_meta:
                return target
        return func(*args, **kwargs)


@contextmanager
def no_memory() -> Iterator[None]:
    """What is built inside has shapes alone and lies on the `meta` device, to be filled from a file.

    Initialisations are passed over: for such tensors the framework works them out in Python and imports its compiler to do
    so, which would be more than half of the time from start to first frame.
    """
    with torch.device("meta"), _WithoutNumbers():
        yield


def members(key: str, names: Collection[str]) -> list[str]:
    """The parameters out of `names` that the file's `key` holds: one, or those of all weight sets."""
    if key in names:
        return [key]
    match = _STACKED.fullmatch(key)
    found: list[str] = []
    while match and (member := f"{match[1]}{match[2]}_projs.{len(found)}.weight") in names:
        found.append(member)
    return found


def _plan(shapes: Mapping[str, tuple[int, ...]], keys: Collection[str]) -> dict[str, list[str]]:
    """For each tensor that the file should have, in the form that it uses, the parameters which it fills."""
    plan: dict[str, list[str]] = {}
    for name in shapes:
        match = _MEMBER.fullmatch(name)
        if match is None:
            owner, _, leaf = name.rpartition(".")
            old = [f"{owner}.{old}" for old in _OLD_NAMES.get(leaf, ()) if f"{owner}.{old}" in keys]
            plan[old[0] if old and name not in keys else name] = [name]
            continue
        stem = f"{match[1]}{match[2]}_proj"
        stacked = [f"{stem}_weight", f"{stem}.weight"]
        if match[2] == "out":  # the published name comes first: messages use it
            stacked.reverse()
        present = [key for key in stacked if key in keys]
        if present or name not in keys:
            key = (present or stacked)[0]
            plan[key] = members(key, shapes)
        else:
            plan[name] = [name]
    return plan


def stacked_shape(names: list[str], shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of the parameters `names` stacked along their first axis."""
    rows, *rest = shapes[names[0]]
    return (rows * len(names), *rest) if len(names) > 1 else shapes[names[0]]


@dataclass(frozen=True)
class Filling:
    """An empty module and a file that was compared with it to the last value; no memory has been taken yet."""

    module: nn.Module
    header: Header
    plan: Mapping[str, list[str]]
    """Tensor of the file: the parameters which it fills."""

    def fill(self, device: torch.device | str, dtype: torch.dtype) -> None:
        """Fills the module, on `device` in `dtype`. Raises CheckpointError when a value is too large for `dtype`."""
        with TensorReader(self.header) as reader:
            for key, names in self.plan.items():
                stored = reader.read(key)
                tensor = stored.to(device).to(dtype)
                if dtype != stored.dtype:
                    require_finite(tensor, self.header.path, key)
                parts = tensor.chunk(len(names)) if len(names) > 1 else (tensor,)
                for name, part in zip(names, parts, strict=True):
                    # A copy, so that no two parameters share memory: such a model could not be written again.
                    set_tensor(self.module, name, part.clone() if len(names) > 1 else part)


def plan_filling(module: nn.Module, header: Header, what: str = "the configuration", ignore: Iterable[str] = ()) -> Filling:
    """Compares an empty `module` with a validated file: names, shapes, types, and that every value is finite.

    `what` names in messages the source of the configuration; tensors called in `ignore` are skipped. Raises
    CheckpointError for what cannot be used. The file's values pass through a small buffer.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    skipped = set(ignore)
    tensors = {name: info for name, info in header.tensors.items() if name not in skipped}
    plan = _plan(shapes, tensors)
    check_against(Header(header.path, tensors, {}),
                  {key: stacked_shape(names, shapes) for key, names in plan.items()}, what)
    check_finite(header, plan)
    return Filling(module, header, plan)


def fill_module(
    module: nn.Module, header: Header, device: torch.device | str, dtype: torch.dtype,
    what: str = "the configuration", ignore: Iterable[str] = (),
) -> None:
    """`plan_filling`, then `Filling.fill`."""
    plan_filling(module, header, what, ignore).fill(device, dtype)


def set_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Puts `tensor` in place of the parameter or buffer called `name`, whatever that held before."""
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    setattr(owner, leaf, tensor if leaf in owner._buffers else nn.Parameter(tensor))
