"""A small complete model folder and the means to damage it, for the tests of checkpoints."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from duplex.checkpoint import save_lm
from duplex.codec import MimiCodec, MimiConfig, build_mimi
from duplex.errors import CheckpointError, ConfigError
from duplex.model.lm import DuplexLM
from duplex.testing import tiny_lm_config

MIMI = MimiConfig(dimension=16, n_filters=2, codebook_dim=8, n_codebooks=4, cardinality=64, num_heads=2,
                  num_layers=1, dim_feedforward=16, context=20)
TEXT = ["hello there how are you", "the train leaves at nine", "a very good plan indeed", "what is the time"]


def train_tokenizer(path: Path, kind: str = "unigram") -> Path:
    """A sentencepiece model of some 60 pieces, Moshi's special ids in place."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXT * 20), model_writer=model, vocab_size=60, model_type=kind, unk_id=0,
        bos_id=1, eos_id=2, pad_id=3, minloglevel=2, hard_vocab_limit=False)
    path.write_bytes(model.getvalue())
    return path


def make_folder(path: Path) -> Path:
    """A model folder with random weights for everything: language model, codec, tokenizer, card."""
    tokenizer = train_tokenizer(path.with_name("any.model"))
    pieces = sentencepiece.SentencePieceProcessor(str(tokenizer)).vocab_size()
    torch.manual_seed(0)
    model = DuplexLM(tiny_lm_config(text_card=pieces))
    extra = {"model_type": "moshi", "lm_gen_config": {"temp": 0.5}}
    codec = MimiCodec(build_mimi(MIMI), MIMI)
    return save_lm(model, path, extra, codec=codec, tokenizer=tokenizer, card="# A model\n")


def refused(load: Callable[[], Any], *words: str) -> str:
    """The error that `load` ends in: of the product's own kind, one line, with all of `words`."""
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 800
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"
    return message


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
