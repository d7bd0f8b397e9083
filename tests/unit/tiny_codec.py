"""A codec of a few thousand random weights and a tokenizer, as files that the training commands take."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from model_folders import train_tokenizer
from safetensors.torch import save_file

from duplex.codec import MimiConfig, build_mimi

CODEC = MimiConfig(dimension=16, n_filters=2, codebook_dim=8, n_codebooks=3, cardinality=16, num_heads=2, num_layers=1,
                   dim_feedforward=32, context=16, layer_scale=0.1)


def write_codec(folder: Path) -> tuple[Path, Path]:
    """A codec folder as train.codec leaves it, and a tokenizer with byte pieces left out: (folder, file)."""
    torch.manual_seed(0)
    mimi = build_mimi(CODEC)
    for module in mimi.modules():
        if hasattr(module, "embedding_sum"):
            torch.nn.init.normal_(module.embedding_sum)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in mimi.state_dict().items()}, folder / "mimi.safetensors")
    (folder / "mimi.json").write_text(json.dumps(CODEC.to_dict()))
    return folder, train_tokenizer(folder / "tokenizer.model")
