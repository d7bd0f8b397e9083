"""The mean of two models: of every weight, and of nothing else."""

from __future__ import annotations

import json

import pytest
import torch
from model_folders import edit_config
from safetensors.torch import load_file, save_file

from duplex.checkpoint import load_model
from train import average


@pytest.fixture
def other(folder):
    """The same model with all weights of the language model doubled."""
    weights = load_file(folder / "model.safetensors")
    save_file({name: 2 * weight for name, weight in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_mean_lies_between_and_keeps_what_the_first_recommends(saved, other, tmp_path, capsys):
    (other / "duplex.json").write_text(json.dumps({"patience": 2.0}))
    assert average.main([str(other), str(saved), "--share", "0.25", "--out", str(tmp_path / "mean")]) == 0
    mean, first, second = (load_model(path) for path in (tmp_path / "mean", other, saved))
    for name, weight in second.lm.state_dict().items():
        assert torch.allclose(mean.lm.state_dict()[name], 1.75 * weight, atol=1e-6), name
    assert mean.sampling == first.sampling and mean.sampling.patience == 2.0 and second.sampling.patience == 0
    pcm = torch.randn(1, 1, 1920)
    assert torch.equal(mean.codec.encode(pcm), first.codec.encode(pcm))
    assert "75 % of" in capsys.readouterr().out


def test_what_has_no_mean_is_refused(saved, other, tmp_path, capsys):
    def refused(*arguments):
        assert average.main([*map(str, arguments), "--out", str(tmp_path / "mean")]) == 2
        assert not (tmp_path / "mean").exists()
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    assert "between 0 and 1" in refused(saved, other, "--share", "2")
    codec = load_file(other / "mimi.safetensors")
    name = next(name for name in sorted(codec) if name.startswith("encoder.") and codec[name].is_floating_point())
    save_file(codec | {name: codec[name] + 1}, other / "mimi.safetensors")
    assert "other codes" in refused(saved, other)
    edit_config(other, context=7)
    assert "another shape" in refused(saved, other)
