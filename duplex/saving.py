"""Model folders written so that either the whole folder appears or nothing does.

The weights get the published key names (attention projections stacked), so that the PyTorch, MLX and Rust
implementations of the Moshi family read them, and config.json only keys that those know.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from duplex.codec import MimiCodec
from duplex.config import FOLDER_KEYS, LMConfig, SamplingConfig
from duplex.errors import CheckpointError, ConfigError
from duplex.model.lm import DuplexLM
from duplex.model.lora import adapted_layers, base_state_dict, lora_state_dict
from duplex.model.projections import stacked_state_dict
from duplex.overlay import build_fields
from duplex.safefile import require_finite

CONFIG_NAME = "config.json"
LM_NAME = "model.safetensors"
MIMI_NAME = "mimi.safetensors"
MIMI_CONFIG_NAME = "mimi_config.json"
TOKENIZER_NAME = "tokenizer.model"
LORA_NAME = "lora.safetensors"
CARD_NAME = "MODEL_CARD.md"
OWN_NAME = "duplex.json"
"""Recommended sampling that the family's `lm_gen_config` has no word for; other programs pass the file over."""
_WRITTEN_HERE = ("moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name", "mimi_config")


def save_lm(
    model: DuplexLM,
    folder: str | Path,
    extra: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
    codec: MimiCodec | None = None,
    tokenizer: str | Path | None = None,
    card: str | None = None,
    own: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes `model` as a model folder and returns its path; with codec and tokenizer `load_model` reads
    it.

    `extra` are further keys of config.json that describe the folder (`model_type`, `lm_gen_config`, ...).
    `dtype` is the type of the stored weights, None that of the model. `tokenizer` is a sentencepiece
    file, which is copied; `card` the text of the model card, `own` recommended settings of `SamplingConfig`
    for `duplex.json`. Adapters (`duplex.model.lora`) are written to a file of their own. The folder is written
    under another name first and then renamed; an existing one is replaced only with `overwrite`. Raises
    CheckpointError for weights that are not finite in
    `dtype` or a folder that cannot be written, and ConfigError for a key in `extra` that describes no
    folder.
    """
    config = plain_config(model.config).to_dict() | _folder_keys(extra or {}) | {"moshi_name": LM_NAME}
    with new_folder(folder, overwrite) as partial:
        _save(stacked_state_dict(base_state_dict(model)), partial / LM_NAME, dtype)
        adapters = list(adapted_layers(model))
        if adapters:
            _save(lora_state_dict(model), partial / LORA_NAME, dtype)
            config |= {"lora_name": LORA_NAME, "lora": True, "lora_rank": adapters[0][1].rank,
                       "lora_scaling": adapters[0][1].scaling}
        else:
            config["lora"] = False  # merged or never there: nobody shall look for an adapter
        if codec is not None:
            _save(codec.mimi.state_dict(), partial / MIMI_NAME, None)
            _write_json(partial / MIMI_CONFIG_NAME, codec.config.upstream())
            config |= {"mimi_name": MIMI_NAME, "mimi_config_name": MIMI_CONFIG_NAME}
        if tokenizer is not None:
            shutil.copyfile(tokenizer, partial / TOKENIZER_NAME)
            config["tokenizer_name"] = TOKENIZER_NAME
        if card is not None:
            (partial / CARD_NAME).write_text(card, encoding="utf-8")
        if own:
            build_fields(SamplingConfig, own, OWN_NAME)
            _write_json(partial / OWN_NAME, own)
        _write_json(partial / CONFIG_NAME, config)
    return Path(folder)


@contextlib.contextmanager
def new_folder(folder: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill that becomes `folder` when the block ends well and vanishes when it does not.

    Raises CheckpointError when `folder` exists with anything in it (unless `overwrite`) or cannot be written.
    """
    folder = Path(folder)
    taken = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    if taken and not overwrite:
        raise CheckpointError(f"{folder}: exists already; remove it or choose another folder")
    suffix = secrets.token_hex(4)
    partial, old = (folder.with_name(f".{folder.name}.{kind}-{suffix}") for kind in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise CheckpointError(
            f"{folder}: cannot be written ({reason}); check the path and the free space") from None
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
            with contextlib.suppress(OSError):  # what was replaced may have been a file
                leftover.unlink()


def _save(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype | None) -> None:
    ready: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        ready[name] = (tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor).contiguous()
        require_finite(ready[name], path, name)
    save_file(ready, path, metadata={"format": "pt"})


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _folder_keys(extra: Mapping[str, Any]) -> dict[str, Any]:
    allowed = sorted(FOLDER_KEYS - set(_WRITTEN_HERE))
    unknown = sorted(set(extra) - set(allowed))
    if unknown:
        raise ConfigError(f"{CONFIG_NAME}: {unknown[0]!r} is no key to describe a folder with; "
                          f"known: {', '.join(allowed)}")
    return dict(extra)


def plain_config(config: LMConfig) -> LMConfig:
    """`config` without a number of user rows that its other keys imply, a key that only this library
    knows.
    """
    if config.n_user is None:
        return config
    derived = dataclasses.replace(config, n_user=None)
    return derived if derived.user_rows == config.user_rows else config
