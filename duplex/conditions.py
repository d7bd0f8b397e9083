"""Fixed conditions of published models (`conditioners` and `fuser` in config.json), put into the weights.

Hibiki and some Moshi variants add one constant vector to every input frame: a learnt code for, say, the
wanted quality of the speech. Since every frame has exactly one text token, adding that vector to each row of
the text embedding computes the same function, and the model needs no extra input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from duplex.errors import CheckpointError, ConfigError
from duplex.model.lm import DuplexLM
from duplex.safefile import Header, TensorReader, check_against, require_finite, show

PREFIX = "condition_provider."
DEFAULTS = {"description": "very_good"}
"""What is asked for unless the caller says otherwise; a condition without a default is left unspecified."""


def condition_tables(raw: Mapping[str, Any], source: str) -> dict[str, dict[str, Any]]:
    """The lookup-table conditions of a config.json, {} when it has none. ConfigError for any other kind."""
    conditioners, fuser = raw.get("conditioners") or {}, raw.get("fuser") or {}
    if not isinstance(conditioners, Mapping) or not isinstance(fuser, Mapping):
        raise ConfigError(f"{source}: conditioners and fuser must be tables; copy the file again")
    summed = fuser.get("sum") or ()
    if not isinstance(summed, (list, tuple)):
        raise ConfigError(f"{source}: fuser.sum is {show(summed)}; it must be a list of names")
    tables: dict[str, dict[str, Any]] = {}
    for name, settings in conditioners.items():
        table = settings.get("lut") if isinstance(settings, Mapping) else None
        if name not in summed or not isinstance(table, Mapping):
            raise ConfigError(f"{source}: condition {show(name)} is not a summed lookup table (lut), "
                              "which alone is supported; use another model")
        bins, width, values = table.get("n_bins"), table.get("dim"), table.get("possible_values")
        sizes = all(isinstance(size, int) and 0 < size < 1_000_000 for size in (bins, width))
        if not sizes or not isinstance(values, list):
            raise ConfigError(
                f"{source}: condition {show(name)} needs n_bins, dim and possible_values; copy it again")
        tables[name] = {"n_bins": bins, "dim": width, "possible_values": values}
    return tables


def bake_conditions(
    model: DuplexLM, header: Header, tables: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, str | None]
) -> dict[str, str | None]:
    """Adds the vectors of the `chosen` values (over `DEFAULTS`) to the text embedding of `model`.

    `header` is that of the model's weight file, which holds the tables too. Returns the value of every
    condition. Raises ConfigError for a value that the model was not trained with.
    """
    used: dict[str, str | None] = {}
    dim = model.config.dim
    if tables and (model.config.norm_emb or model.config.demux_second_stream):
        raise ConfigError(f"{header.path}: conditions with norm_emb or two text streams are not supported")
    total = torch.zeros(dim)
    for name, table in tables.items():
        default = DEFAULTS.get(name)
        value = chosen.get(name, default if default in table["possible_values"] else None)
        if value is not None and value not in table["possible_values"]:
            raise ConfigError(f"{header.path}: condition {show(name)} has no value {show(value)}; "
                              f"choose from {', '.join(map(str, table['possible_values']))}")
        total += _vector(header, f"{PREFIX}conditioners.{name}.", table, value, dim)
        used[name] = value
    if tables:
        with torch.no_grad():
            model.text_emb.weight += total.to(model.text_emb.weight)
    return used


def _vector(header: Header, prefix: str, table: Mapping[str, Any], value: str | None, dim: int) -> Tensor:
    """The vector float32 [dim] of one value; of the learnt "not given" when `value` is None."""
    shapes = {f"{prefix}embed.weight": (table["n_bins"] + 1, table["dim"]),
              f"{prefix}output_proj.weight": (dim, table["dim"]), f"{prefix}learnt_padding": (1, 1, dim)}
    found = {name: info for name, info in header.tensors.items() if name.startswith(prefix)}
    check_against(Header(header.path, found, {}), shapes, "its conditioners")
    with TensorReader(header) as reader:
        embed, projection, padding = (reader.read(name).float() for name in shapes)
    for name, tensor in zip(shapes, (embed, projection, padding), strict=True):
        require_finite(tensor, header.path, name)
    if value is None:
        return padding.flatten()
    index = table["possible_values"].index(value)
    if index >= len(embed):
        raise CheckpointError(f"{header.path}: no table entry for condition value {show(value)}; copy it again")
    return projection @ embed[index]
