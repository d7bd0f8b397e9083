"""Weights of a language model read from a safetensors file into modules, and adapters read on top of them.

The header is compared with what the configuration asks for before anything is read; then tensor after tensor
is read, converted and put in place of the empty one: the peak is one copy of the model plus one tensor.

Attention projections come stacked over weight sets (`in_proj_weight` [sets * out, in], published files) or
one by one (`in_projs.{i}.weight`, fine-tuned files); both are read, adapters included.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from duplex.config import LMConfig
from duplex.errors import CheckpointError, ConfigError
from duplex.model.lm import DuplexLM
from duplex.model.lora import add_lora, merged_weight
from duplex.safefile import (
    Header,
    TensorInfo,
    TensorReader,
    check_against,
    nearest,
    read_header,
    require_finite,
    show,
)

CONDITION_PREFIX = "condition_provider."
_LARGEST = 10_000_000  # of any integer in a configuration: far above every model, far below overflow
_STACKED = re.compile(r"(.*self_attn\.)(in|out)_proj(?:_weight|\.weight)")
_MEMBER = re.compile(r"(.*self_attn\.)(in|out)_projs\.\d+\.weight")
_ADAPTER = re.compile(r"(.+)\.(lora_[AB])\.weight")


def empty_lm(config: LMConfig, source: Path | str, header: Header | None = None) -> DuplexLM:
    """A model of the given shape without memory behind its weights (on the `meta` device).

    Raises ConfigError for sizes that no real model has, before time is spent on building it.
    """
    counts = {"num_layers": "transformer.layers.", "n_q": "emb.", "dep_q": "linears.",
              "depformer_num_layers": "depformer.layers.", "extra_heads_num_heads": "extra_heads."}
    for name, value in vars(config).items():
        if isinstance(value, int) and value > _LARGEST:
            raise ConfigError(f"{source}: {name} is {value}, which no model has; correct it")
    for name, prefix in counts.items():
        value = getattr(config, name)
        if header is not None and value > len(header.tensors):
            raise CheckpointError(
                f"{header.path}: has {len(header.tensors)} tensors in all, too few for {name} = {value} in "
                f"{source} ('{prefix}*'); use the configuration of these weights")
    with torch.device("meta"):
        return DuplexLM(config)


def _members(key: str, names: Collection[str]) -> list[str]:
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
            plan[name] = [name]
            continue
        stem = f"{match[1]}{match[2]}_proj"
        stacked = [f"{stem}_weight", f"{stem}.weight"]
        if match[2] == "out":  # the published name comes first: messages use it
            stacked.reverse()
        present = [key for key in stacked if key in keys]
        if present or name not in keys:
            key = (present or stacked)[0]
            plan[key] = _members(key, shapes)
        else:
            plan[name] = [name]
    return plan


def _stacked_shape(members: list[str], shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    rows, *rest = shapes[members[0]]
    return (rows * len(members), *rest) if len(members) > 1 else shapes[members[0]]


def stored_dtype(header: Header) -> torch.dtype:
    """The float type that the largest tensor of the file is stored as; float64 counts as float32."""
    largest = max(header.tensors.values(), key=lambda info: info.stop - info.start)
    return {"F16": torch.float16, "BF16": torch.bfloat16}.get(largest.dtype, torch.float32)


def load_weights(
    model: DuplexLM, header: Header, device: torch.device | str, dtype: torch.dtype,
    what: str = "the configuration", ignore: Iterable[str] = (),
) -> None:
    """Fills the empty `model` from a validated file, on `device` in `dtype`.

    `what` names in messages the source of the configuration; tensors called in `ignore` are skipped. Raises
    CheckpointError for names, shapes, types or values that cannot be used; the model is then half filled.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    skipped = set(ignore)
    tensors = {name: info for name, info in header.tensors.items() if name not in skipped}
    _refuse_relatives(header, tensors)
    plan = _plan(shapes, tensors)
    check_against(Header(header.path, tensors, {}),
                  {key: _stacked_shape(members, shapes) for key, members in plan.items()}, what)
    with TensorReader(header) as reader:
        for key, members in plan.items():
            tensor = reader.read(key).to(device).to(dtype)
            require_finite(tensor, header.path, key)
            parts = tensor.chunk(len(members)) if len(members) > 1 else (tensor,)
            for name, part in zip(members, parts, strict=True):
                # A copy, so that no two parameters share memory: such a model could not be written again.
                _set_parameter(model, name, part.clone() if len(members) > 1 else part)


def _refuse_relatives(header: Header, tensors: Mapping[str, TensorInfo]) -> None:
    """Names the format when the keys are another implementation's, rather than listing hundreds of keys."""
    endings = {name.rpartition(".")[2] for name in tensors}
    first_parts = {name.partition(".")[0] for name in tensors}
    if endings & {"weight_scb", "scales", "qweight", "SCB"}:
        problem = "holds quantised weights; use the bf16 checkpoint of the same model"
    elif {"decoder", "depth_decoder"} & first_parts or "model" in first_parts:
        problem = "has the key names of another library; use the original checkpoint with Kyutai's key names"
    elif "audio_embs" in first_parts or any(name.startswith("depformer.slices.") for name in tensors):
        problem = "has the key names of the MLX port; use the PyTorch checkpoint of the same model"
    elif all(_ADAPTER.fullmatch(name) for name in tensors):
        problem = "is a LoRA adapter alone; load the folder of its base model and give this file as `lora`"
    else:
        return
    raise CheckpointError(f"{header.path}: {problem}")


def _set_parameter(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor))


def load_adapter(model: DuplexLM, path: str | Path, scaling: float, keep: bool = False) -> None:
    """Puts the LoRA adapter of the file `path` on `model`: merged into the weights, or kept as layers.

    Besides pairs `{layer}.lora_A.weight` [rank, in], `{layer}.lora_B.weight` [out, rank] the file may hold
    whole parameters (embeddings that were trained along); they replace those of the model. Nothing is changed
    before the whole file has been checked. Raises CheckpointError naming the file.
    """
    path = Path(path)
    header = read_header(path)
    linears = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    parameters = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = {f"{name}.weight" for name in linears}
    whole: dict[str, Tensor] = {}
    pairs: dict[str, dict[str, Tensor]] = {}
    expected: dict[str, tuple[int, ...]] = {}
    members_of: dict[str, list[str]] = {}
    for key, info in header.tensors.items():
        match = _ADAPTER.fullmatch(key)
        members = _members(f"{match[1]}.weight", weights) if match else _members(key, parameters)
        if not members:
            hint = nearest(f"{match[1]}.weight" if match else key, sorted(weights if match else parameters))
            raise CheckpointError(f"{path}: adapter for {show(key)}, which the model does not have{hint}")
        members_of[key] = members
        expected[key] = _adapter_shape(match[2] if match else None, info, members, parameters)
    check_against(header, expected, "the model that it is put on")
    parameter = next(model.parameters())
    with TensorReader(header) as reader:
        for key, members in members_of.items():
            tensor = reader.read(key).to(parameter.device)
            require_finite(tensor, path, key)
            for name, part in zip(members, tensor.chunk(len(members)), strict=True):
                match = _ADAPTER.fullmatch(key)
                if match:
                    pairs.setdefault(name.removesuffix(".weight"), {})[match[2]] = part
                else:
                    whole[name] = part.to(parameter.dtype).clone()
    for name, pair in pairs.items():
        if len(pair) != 2 or pair["lora_A"].shape[0] != pair["lora_B"].shape[1]:
            raise CheckpointError(
                f"{path}: the adapter of {show(name)} lacks a half or they differ in rank; save it again")
    for name, tensor in whole.items():
        _set_parameter(model, name, tensor)
    _apply(model, pairs, scaling, keep)


def _adapter_shape(
    part: str | None, info: TensorInfo, members: list[str], parameters: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """The shape that one tensor of an adapter file must have; its rank is taken from the file."""
    if part is None:
        return _stacked_shape(members, parameters)
    rows, columns = parameters[members[0]]
    if part == "lora_A":
        rank = info.shape[0] // len(members) if len(info.shape) == 2 else 1
        return (max(rank, 1) * len(members), columns)
    return (rows * len(members), max(info.shape[1], 1) if len(info.shape) == 2 else 1)


@torch.no_grad()
def _apply(model: DuplexLM, pairs: Mapping[str, Mapping[str, Tensor]], scaling: float, keep: bool) -> None:
    if keep:
        add_lora(model, {name: pair["lora_A"].shape[0] for name, pair in pairs.items()}, scaling, pairs)
    for name, pair in pairs.items():
        layer = model.get_submodule(name)
        if keep:
            for part, tensor in pair.items():
                _set_parameter(layer, f"{part}.weight", tensor.to(layer.weight.dtype).clone())
        else:
            layer.weight.copy_(merged_weight(layer.weight, pair["lora_A"], pair["lora_B"], scaling))
