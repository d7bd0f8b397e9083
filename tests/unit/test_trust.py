"""The trainer in a process of its own that is killed again and again, and the pieces of the report on it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from toy_training import corpus, recipe_file

from benchmarks.trust import disk, training
from duplex.overlay import load_toml
from train.recipe import FitRecipe
from train.sources import data_of
from train.trust import main as trust


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, capfd):
    data = str(corpus(tmp_path / "shards"))
    recipe = str(recipe_file(tmp_path / "r.toml", train={"steps": 150, "keep_every": 5, "validate_every": 1000}))
    assert trust([recipe, "--shards", data, "--out", str(tmp_path / "trust"), "--kills", "4", "--seed", "1"]) == 0
    told = capfd.readouterr().out
    assert "4 kills, 150 steps: losses, samples and weights are equal to the last bit" in told
    assert "inside a save" in told


def test_the_report_trains_on_what_its_recipe_takes(tmp_path):
    recipe = load_toml(FitRecipe, training.RECIPE, training.SETTINGS)
    shards = training.corpus(tmp_path / "shards", seed=0)
    data = data_of(SimpleNamespace(recipe="r", shards=shards, text=None, coded=None, sound=None, codec=None), recipe)
    assert data.source.sample(3).shape == (recipe.model.num_rows, recipe.train.frames)


@pytest.mark.parametrize("log, found", [
    ("epoch\nerror: x: free some space\n", "error: x: free some space"), ("epoch\n", ""), ("error: a\nerror: b\n", ""),
    ("Traceback (most recent call last)\nerror: a\n", "")])
def test_a_clear_stop_is_one_line(tmp_path, log, found):
    (tmp_path / "run.log").write_text(log)
    assert disk.complaint(tmp_path / "run.log") == found


def test_a_disk_is_filled_up_to_what_is_to_be_left(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free", lambda folder: 5000)
    disk.fill(tmp_path / "filler", 1200)
    assert (tmp_path / "filler").stat().st_size == 3800
