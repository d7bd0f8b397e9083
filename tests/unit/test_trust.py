"""The trainer in a process of its own that is killed again and again."""

from __future__ import annotations

import pytest
from toy_training import corpus, recipe_file

from train.trust import main as trust


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, capfd):
    data = str(corpus(tmp_path / "shards"))
    recipe = str(recipe_file(tmp_path / "r.toml", train={"steps": 150, "keep_every": 5, "validate_every": 1000}))
    assert trust([recipe, "--shards", data, "--out", str(tmp_path / "trust"), "--kills", "4", "--seed", "1"]) == 0
    told = capfd.readouterr().out
    assert "4 kills, 150 steps: losses, samples and weights are equal to the last bit" in told
    assert "inside a save" in told
