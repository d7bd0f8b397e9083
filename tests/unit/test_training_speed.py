"""The training benchmark: equal work before it is timed, and memory that is really kept."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import training_speed
from benchmarks.cost import random_lm
from duplex.errors import InputError


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_same_work_is_compared(capsys, tmp_path):
    out = tmp_path / "training.json"
    assert training_speed.main(f"--model random --batch 1 --frames 12 --rounds 2 --json {out}".split()) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads(out.read_text()) == result and result["kind"] == "training_speed"
    ways = result["shapes"]["random"]
    assert ways["reference"]["over_reference"] == 1.0
    assert ways["ours"]["loss"] == pytest.approx(ways["reference"]["loss"], rel=1e-4)
    assert 0 < ways["quarter"]["kept_mb"] < ways["ours"]["kept_mb"]
    assert ways["ours"]["frames_per_s"] == pytest.approx(12e3 / ways["ours"]["median_ms"], rel=0.01)


def test_models_that_differ_are_not_timed(monkeypatch):
    model = random_lm("random")
    reference = training_speed.reference_of(model)
    with torch.no_grad():
        reference.text_linear.weight.mul_(3)
    monkeypatch.setattr(training_speed, "reference_of", lambda model: reference)
    with pytest.raises(InputError, match="losses differ"):
        training_speed.compare(model, 1, 8, 1)


def test_kept_bytes_are_those_of_the_saved_tensors():
    x, w = torch.randn(10, 20), torch.randn(20, 30, requires_grad=True)
    assert training_speed.kept_bytes(lambda: (x @ w).relu().sum(), [w]) == 4 * (10 * 20 + 10 * 30)
