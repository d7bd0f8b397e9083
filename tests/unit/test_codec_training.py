"""The command that trains a codec: stopped and resumed it gives the same bytes, and what cannot go on is said in a line."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_coded import small_bank  # noqa: F401
from torch import equal

from duplex.overlay import load_toml
from train import codec
from train.codec import CodecRecipe

RECIPE = """
[codec]
dimension = 16
n_filters = 2
codebook_dim = 8
n_codebooks = 3
cardinality = 16
num_heads = 2
num_layers = 1
dim_feedforward = 32
context = 16

[train]
steps = 4
batch = 2
frames = 4
warmup = 1
quantize_from = 1
distill = 0.0
phones = 0.0
codebook_dropout = 0.5
keep_every = 1

[adversarial]
on = true
windows = [128, 64]
channels = 2
"""


@pytest.fixture
def command(tmp_path, small_bank):  # noqa: F811
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    return lambda out, *more: codec.main([str(recipe), "--bank", str(small_bank), "--out", str(tmp_path / out), *more])


def test_a_stopped_run_goes_on_as_if_it_had_not_been(command, tmp_path, capsys):
    assert command("whole") == 0 and command("parts", "--until", "2") == 0
    half = load_file(tmp_path / "parts" / "mimi.safetensors")
    assert command("parts") == 0
    whole, parts = (load_file(tmp_path / name / "mimi.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(equal(whole[key], parts[key]) for key in whole)
    assert not all(equal(half[key], whole[key]) for key in whole)  # the comparison can fail
    assert json.loads((tmp_path / "whole" / "mimi.json").read_text())["dimension"] == 16


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda folder: (folder / "resume.pt").write_bytes(b"PK"), "does not fit this recipe or is damaged"),
    (lambda folder: (folder.parent / "recipe.toml").write_text(RECIPE.replace("dimension = 16", "dimension = 24", 1)),
     "does not fit this recipe or is damaged"),
])
def test_a_state_that_cannot_be_taken_up_is_named(command, tmp_path, capsys, spoil, says):
    assert command("run", "--until", "1") == 0
    kept = (tmp_path / "run" / "mimi.safetensors").read_bytes()
    spoil(tmp_path / "run")
    assert command("run") == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and says in error[0] and "resume.pt" in error[0]
    assert (tmp_path / "run" / "mimi.safetensors").read_bytes() == kept


def test_a_damaged_start_is_named(command, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mimi.safetensors").write_bytes(b"no")
    assert command("run", "--start", str(tmp_path / "other")) == 2
    assert "other/mimi.safetensors: damaged" in capsys.readouterr().err


def test_labels_that_are_missing_are_said(command, tmp_path, capsys):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("phones = 0.0", "phones = 1.0"))
    assert command("run", "--until", "1") == 0
    assert "no --phones: the semantic codebook learns nothing from it" in capsys.readouterr().err


def test_the_recipe_of_the_released_size_is_that_of_the_released_size():
    recipe = load_toml(CodecRecipe, Path(codec.__file__).parent / "recipes" / "codec-mimi.toml", {})
    assert recipe.codec.n_codebooks == 32 and recipe.codec.cardinality == 2048 and recipe.codec.dimension == 512
    assert recipe.adversarial.on and recipe.train.codebook_dropout > 0
