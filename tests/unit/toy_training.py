"""A model, a corpus and a recipe so small that a training step takes milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from duplex.config import LMConfig
from train.data import DialogueData, ShardSource
from train.keeping import LEDGER
from train.shards import Encoded, Mark, ShardSet, write_shard

PAD, EPAD = 3, 0
SMALL: dict = {
    "delays": [0, 0, 1, 0, 1], "dim": 16, "num_heads": 2, "num_layers": 1, "n_q": 4, "dep_q": 2, "card": 16, "text_card": 20,
    "context": 40, "norm": "rms_norm_f32", "gating": "silu", "positional_embedding": "rope", "depformer_dim": 8,
    "depformer_num_heads": 2, "depformer_num_layers": 1, "depformer_dim_feedforward": 24, "depformer_pos_emb": "none",
    "depformer_gating": "silu", "depformer_multi_linear": True, "depformer_weights_per_step": True}
MODEL = LMConfig.from_dict(SMALL)
METADATA = {"codec": "a", "tokenizer": "b", "codebooks": "2", "vocabulary": "20", "cardinality": "16"}
TRAIN = {"steps": 12, "batch": 4, "frames": 40, "lr": 5e-3, "depth_lr": 5e-3, "warmup": 2, "depth_share": 0.5,
         "token_dropout": 0.1, "validate_every": 6, "keep_every": 3}


def dialogue(rng: np.random.Generator, frames: int = 150) -> np.ndarray:
    """int [5, frames]: audio rows that count up; now and then a run of words in the text."""
    codes = (np.arange(frames)[None] + rng.integers(0, 16, (5, 1))) % 16
    codes[0] = PAD
    for at in range(45, frames - 10, 50):
        codes[0, at - 1 : at + 6] = [EPAD, *rng.integers(4, 20, 6)]
    return codes


def corpus(folder: Path, marks: bool = False) -> Path:
    """Shards with train/ and test/; with ``marks``, user turns end and interruptions begin at known frames."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        (folder / split).mkdir(parents=True)
        made: list = [dialogue(rng) for _ in range(count)]
        if marks:
            events = (Mark("user_turn", 20, 40), Mark("barge_in_stop", 97, 110))
            made = [Encoded(str(n), codes, np.full(codes.shape[1], PAD), events) for n, codes in enumerate(made)]
        write_shard(folder / split / "shard-00000.safetensors", made, METADATA)
    return folder


def toy_data(folder: Path, **options) -> DialogueData:
    """The corpus as training data."""
    return DialogueData(ShardSource(ShardSet(folder / "train"), 40, 0), ShardSet(folder / "test"), 40, 4, **options)


def ledger(out: Path) -> list[dict]:
    """The lines of a run's ledger."""
    return [json.loads(line) for line in (out / LEDGER).read_text().splitlines()]


def recipe_file(path: Path, **tables: dict) -> Path:
    """A recipe as TOML: the small model and settings with ``tables`` laid over them."""
    merged: dict[str, dict] = {"model": SMALL, "train": TRAIN}
    for name, values in tables.items():
        merged[name] = merged.get(name, {}) | values
    lines = []
    for name, values in merged.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines) + "\n")
    return path
