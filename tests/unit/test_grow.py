"""Deeper models: the same function at first, and every layer of it can learn."""

from __future__ import annotations

import pytest
import torch

from duplex.checkpoint import load_model
from duplex.errors import ConfigError
from duplex.model.lm import DuplexLM
from duplex.testing import tiny_lm_config
from train import grow


def test_old_layers_keep_their_order_and_new_ones_are_spread():
    assert grow.sources(2, 4) == [(0, True), (0, False), (1, True), (1, False)]
    assert grow.sources(4, 6) == [(0, True), (0, False), (1, True), (2, True), (2, False), (3, True)]
    assert grow.sources(3, 3) == [(n, True) for n in range(3)]


def test_a_deeper_model_says_the_same_and_can_learn():
    torch.manual_seed(0)
    model = DuplexLM(tiny_lm_config()).eval()
    grown = grow.deeper(model, 2 * model.config.num_layers + 1)
    codes = torch.randint(model.config.card, (2, model.config.num_rows, 12))
    before, after = model(codes), grown(codes)
    assert torch.allclose(after.text_logits, before.text_logits, atol=1e-5, equal_nan=True)
    assert torch.allclose(after.logits, before.logits, atol=1e-5, equal_nan=True)
    after.text_logits[after.text_mask].square().mean().backward()
    for number, layer in enumerate(grown.transformer.layers):
        moved = [name for name, p in layer.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
        assert any("out" in name or "linear2" in name for name in moved), number


def test_a_deeper_depth_transformer_says_the_same_and_can_learn():
    torch.manual_seed(0)
    model = DuplexLM(tiny_lm_config()).eval()
    layers = 2 * model.config.depformer_num_layers + 1
    grown = grow.deeper(model, depth_layers=layers)
    assert (grown.config.num_layers, grown.config.depformer_num_layers) == (model.config.num_layers, layers)
    codes = torch.randint(model.config.card, (2, model.config.num_rows, 12))
    before, after = model(codes), grown(codes)
    assert torch.allclose(after.logits, before.logits, atol=1e-5, equal_nan=True)
    after.logits[after.mask].square().mean().backward()
    for number, layer in enumerate(grown.depformer.layers):
        moved = [name for name, p in layer.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
        assert any("out" in name or "linear2" in name for name in moved), number


def test_what_cannot_grow_is_refused():
    model = DuplexLM(tiny_lm_config())
    with pytest.raises(ConfigError, match="give --layers, --depth-layers or both"):
        grow.deeper(model)
    with pytest.raises(ConfigError, match="--depth-layers 1: the model has"):
        grow.deeper(model, depth_layers=1)


def test_the_folder_loads_as_any_other(saved, tmp_path, capsys):
    layers = load_model(saved).config.num_layers
    assert grow.main([str(saved), "--layers", str(layers + 1), "--out", str(tmp_path / "deep")]) == 0
    assert load_model(tmp_path / "deep").config.num_layers == layers + 1
    assert f"{layers + 1} layers in place of {layers}" in capsys.readouterr().out
    assert grow.main([str(saved), "--layers", str(layers), "--out", str(tmp_path / "no")]) == 2
    assert "already" in capsys.readouterr().err and not (tmp_path / "no").exists()
    with pytest.raises(ConfigError):
        grow.deeper(load_model(saved).lm, 1)
