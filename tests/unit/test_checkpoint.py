"""Model folders: what is saved loads again; damaged weights end in one line that names the file."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_folders import MIMI, edit_config, edit_weights, refused

from duplex.checkpoint import load_lm, load_model, save_lm
from duplex.config import SamplingConfig
from duplex.errors import CheckpointError, ConfigError
from duplex.model.lm import DuplexLM
from duplex.testing import tiny_lm_config


def test_round_trip(saved: Path):
    assert sorted(path.name for path in saved.iterdir()) == [
        "MODEL_CARD.md", "config.json", "mimi.safetensors", "mimi_config.json", "model.safetensors",
        "tokenizer.model"]
    loaded = load_model(saved)
    assert loaded.folder == saved
    assert loaded.meta["source"] == str(saved) and loaded.meta["model_type"] == "moshi"
    assert loaded.config == loaded.lm.config and not loaded.lm.training
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("the train")) == "the train"
    assert (loaded.codec.n_codebooks, loaded.codec.cardinality) == (4, 64)
    pcm = torch.randn(1, 1, 1920 * 3, generator=torch.Generator().manual_seed(0))
    codes = loaded.codec.encode(pcm)
    assert codes.shape == (1, 4, 3) and loaded.codec.decode(codes).shape == pcm.shape
    again = load_model(str(saved))
    assert torch.equal(again.codec.encode(pcm), codes)
    for name, tensor in loaded.lm.state_dict().items():
        assert torch.equal(again.lm.state_dict()[name], tensor)


def test_recommended_sampling(saved: Path, folder: Path):
    assert load_model(saved).sampling == SamplingConfig(audio_temperature=0.5)
    edit_config(folder, lm_gen_config={
        "temp": 0.0, "temp_text": 0.1, "top_k": 9, "top_k_text": 8, "cfg_coef": 3, "use_sampling": False})
    assert load_model(folder).sampling == SamplingConfig(
        audio_temperature=0.0, text_temperature=0.1, audio_top_k=9, text_top_k=8, greedy=True)


def test_recommended_sampling_of_this_library_alone(saved: Path, folder: Path, tmp_path: Path):
    (folder / "duplex.json").write_text('{"patience": 3.0}')
    assert load_model(folder).sampling.patience == 3.0 and load_model(saved).sampling.patience == 0.0
    again = save_lm(load_model(folder).lm, tmp_path / "again", own={"patience": 2.5})
    assert json.loads((again / "duplex.json").read_text()) == {"patience": 2.5}
    with pytest.raises(ConfigError, match="patients"):
        save_lm(load_model(folder).lm, tmp_path / "none", own={"patients": 2.5})
    assert not (tmp_path / "none").exists()
    for text, said in (('{"patience": "long"}', "duplex.json: patience"), ("[1]", "duplex.json: expected a table")):
        (folder / "duplex.json").write_text(text)
        with pytest.raises(ConfigError, match=said):
            load_model(folder)


def test_codec_configuration_inside_config_json(folder: Path):
    (folder / "mimi_config.json").unlink()
    edit_config(folder, mimi_config_name=None, mimi_config=MIMI.to_dict())
    assert load_model(folder).codec.config == MIMI


def test_loading_needs_little_more_memory_than_the_model(tmp_path: Path):
    status = Path("/proc/self/clear_refs")
    if not status.exists() or not os.access(status, os.W_OK):
        pytest.skip("the peak of the memory in use cannot be reset here")

    def resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

    model = DuplexLM(tiny_lm_config(dim=512, num_heads=8, num_layers=8, hidden_scale=4))
    size = sum(p.numel() * 4 for p in model.parameters())
    largest = max(p.numel() * 4 for p in model.parameters())
    folder = save_lm(model, tmp_path / "large")
    del model
    before = resident("VmRSS")
    status.write_text("5")
    lm, _, _ = load_lm(folder)
    grown = resident("VmHWM") - before
    assert size > 80_000_000 and grown < 1.1 * size + 3 * largest + 20_000_000
    assert sum(p.numel() for p in lm.parameters()) * 4 == size


def test_truncated_weights(folder: Path):
    rng = random.Random(0)
    for name in ("model.safetensors", "mimi.safetensors"):
        data = (folder / name).read_bytes()
        for cut in [0, 4, 8, 100, len(data) - 1, *(rng.randrange(len(data)) for _ in range(10))]:
            (folder / name).write_bytes(data[:cut])
            refused(lambda: load_model(folder), name, "again")
        (folder / name).write_bytes(data)


def test_names_shapes_and_values_of_weights(folder: Path):
    path, original = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    in_proj = "transformer.layers.1.self_attn.in_proj_weight"

    def rename(old: str, new: str) -> Callable[[dict], None]:
        return lambda tensors: tensors.update({new: tensors.pop(old)})

    def poison(name: str, value: float) -> Callable[[dict], None]:
        return lambda tensors: tensors[name].view(-1)[3:4].fill_(value)

    cases: list[tuple[Callable[[dict], Any], tuple[str, ...]]] = [
        (lambda t: t.pop("linears.2.weight"), ("lacks 'linears.2.weight'",)),
        (lambda t: t.pop(in_proj), (f"lacks '{in_proj}'",)),
        (lambda t: t.update(surplus=torch.zeros(1)), ("unexpected 'surplus'",)),
        (lambda t: t.update({in_proj.replace("_proj_", "_projs.0."): torch.ones(96, 32)}), ("in_projs.0.w",)),
        (rename("out_norm.alpha", "out_norm.alphas"), ("'out_norm.alphas'", "did you mean 'out_norm.alpha'")),
        (lambda t: t.update({"emb.3.weight": torch.zeros(9, 32)}), ("'emb.3.weight' has shape [9, 32]",)),
        (lambda t: t.update({in_proj: torch.zeros(7, 32)}), (in_proj, "[7, 32] instead of [96, 32]")),
        (poison("text_linear.weight", float("nan")), ("'text_linear.weight' holds NaN",)),
        (poison(in_proj, float("inf")), (in_proj, "NaN or infinite")),
        (lambda t: t.update({"emb.0.weight": t["emb.0.weight"].to(torch.int8)}), ("'emb.0.weight'", "I8")),
        (lambda t: t.update({"linears.0.weight_scb": torch.zeros(1)}), ("quantised",)),
        (lambda t: (t.clear(), t.update({"decoder.model.x": torch.zeros(1)})), ("original checkpoint",)),
        (lambda t: (t.clear(), t.update({"audio_embs.0.weight": torch.zeros(1)})), ("MLX",)),
        (lambda t: (t.clear(), t.update({"a": torch.zeros(1)})), ("too few",)),
        (lambda t: t.clear(), ("too few",)),
    ]
    for change, words in cases:
        path.write_bytes(original)
        edit_weights(path, change)
        refused(lambda: load_lm(folder), "model.safetensors", *words)


def test_half_precision_that_overflows_is_refused(folder: Path):
    edit_weights(folder / "model.safetensors", lambda t: t["out_norm.alpha"].fill_(1e9))
    load_lm(folder)
    refused(lambda: load_lm(folder, dtype=torch.float16), "'out_norm.alpha'")


def test_damaged_codec(folder: Path):
    path, original = folder / "mimi.safetensors", (folder / "mimi.safetensors").read_bytes()
    for change in (lambda t: t.pop(sorted(t)[0]), lambda t: t.update(surplus=torch.zeros(1)),
                   lambda t: t[sorted(t)[0]].view(-1)[:1].fill_(float("nan"))):
        path.write_bytes(original)
        edit_weights(path, change)
        refused(lambda: load_model(folder), "mimi.safetensors")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_header_loads_identically_or_is_refused(saved: Path, folder: Path, data: st.DataObject):
    raw = bytearray((saved / "model.safetensors").read_bytes())
    end = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    (folder / "model.safetensors").write_bytes(bytes(raw))
    try:
        loaded = load_lm(folder)[0].state_dict()
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        original = load_lm(saved)[0].state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in original.items())
