"""Weights of a language model from a safetensors file, and adapters on top of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from duplex.config import LMConfig
from duplex.errors import CheckpointError, ConfigError
from duplex.filling import members, no_memory, set_tensor, stacked_shape
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

_LARGEST = 10_000_000  # of any integer in a configuration: far above every model, far below overflow
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
    try:
        with no_memory():
            return DuplexLM(config)
    except (RuntimeError, TypeError, ArithmeticError) as error:  # no check foresaw it, such as a product that overflows
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{source}: its sizes describe no network ({reason}); use the configuration of these weights") from None


def stored_dtype(header: Header) -> torch.dtype:
    """The float type that the largest tensor of the file is stored as; float64 counts as float32."""
    largest = max(header.tensors.values(), key=lambda info: info.stop - info.start)
    return {"F16": torch.float16, "BF16": torch.bfloat16}.get(largest.dtype, torch.float32)


def refuse_foreign_names(header: Header) -> None:
    """Names the format when the keys are another implementation's, rather than listing hundreds of keys."""
    tensors = header.tensors
    endings = {name.rpartition(".")[2] for name in tensors}
    first_parts = {name.partition(".")[0] for name in tensors}
    if endings & {"weight_scb", "scales", "qweight", "SCB"}:
        problem = "holds quantised weights; use the bf16 checkpoint of the same model"
    elif {"decoder", "depth_decoder"} & first_parts or "model" in first_parts:
        problem = "has the key names of another library; use the original checkpoint with Kyutai's key names"
    elif "audio_embs" in first_parts or any(name.startswith("depformer.slices.") for name in tensors):
        problem = "has the key names of the MLX port; use the PyTorch checkpoint of the same model"
    elif tensors and all(_ADAPTER.fullmatch(name) for name in tensors):
        problem = "is a LoRA adapter alone; load the folder of its base model and give this file as `lora`"
    else:
        return
    raise CheckpointError(f"{header.path}: {problem}")


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
    names_of: dict[str, list[str]] = {}
    for key, info in header.tensors.items():
        match = _ADAPTER.fullmatch(key)
        names = members(f"{match[1]}.weight", weights) if match else members(key, parameters)
        if not names:
            hint = nearest(f"{match[1]}.weight" if match else key, sorted(weights if match else parameters))
            raise CheckpointError(f"{path}: adapter for {show(key)}, which the model does not have{hint}")
        names_of[key] = names
        expected[key] = _adapter_shape(match[2] if match else None, info, names, parameters)
    check_against(header, expected, "the model that it is put on")
    parameter = next(model.parameters())
    with TensorReader(header) as reader:
        for key, names in names_of.items():
            tensor = reader.read(key).to(parameter.device)
            require_finite(tensor, path, key)
            for name, part in zip(names, tensor.chunk(len(names)), strict=True):
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
        set_tensor(model, name, tensor)
    _apply(model, pairs, scaling, keep)


def _adapter_shape(
    part: str | None, info: TensorInfo, names: list[str], parameters: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """The shape that one tensor of an adapter file must have; its rank is taken from the file."""
    if part is None:
        return stacked_shape(names, parameters)
    rows, columns = parameters[names[0]]
    if part == "lora_A":
        rank = info.shape[0] // len(names) if len(info.shape) == 2 else 1
        return (max(rank, 1) * len(names), columns)
    return (rows * len(names), max(info.shape[1], 1) if len(info.shape) == 2 else 1)


@torch.no_grad()
def _apply(model: DuplexLM, pairs: Mapping[str, Mapping[str, Tensor]], scaling: float, keep: bool) -> None:
    if keep:
        add_lora(model, {name: pair["lora_A"].shape[0] for name, pair in pairs.items()}, scaling, pairs)
    for name, pair in pairs.items():
        layer = model.get_submodule(name)
        if keep:
            for part, tensor in pair.items():
                set_tensor(layer, f"{part}.weight", tensor.to(layer.weight.dtype).clone())
        else:
            layer.weight.copy_(merged_weight(layer.weight, pair["lora_A"], pair["lora_B"], scaling))
