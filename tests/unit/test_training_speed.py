"""The training benchmark: equal work before it is timed, and memory that is really kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import training_speed
from benchmarks.cost import random_lm
from duplex.errors import InputError
from duplex.model.lm import DuplexLM
from duplex.testing import tiny_lm_config


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


def test_compiled_passes_compute_the_same_loss():
    """By the compiler's tracing alone: to have code written takes minutes."""
    model = DuplexLM(replace(tiny_lm_config(), num_layers=1))
    ways = training_speed.passes(model, model, training_speed.random_codes(model, 1, 6), compiler="eager")
    assert list(ways) == ["reference", "ours", "quarter", "reference, compiled", "ours, compiled", "quarter, compiled"]
    loss = ways["ours, compiled"]()
    loss.backward()
    assert loss.item() == pytest.approx(ways["ours"]().item(), rel=1e-4) and model.text_linear.weight.grad is not None


def test_compiled_passes_are_held_against_the_compiled_reference(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network, backend: compiled.append(backend) or network)
    result = training_speed.compare(DuplexLM(tiny_lm_config()), 1, 6, 1, compiler="inductor")
    assert compiled == ["inductor"] * 2 and len(result) == 6
    for kind in ("", ", compiled"):
        reference, ours = result[f"reference{kind}"], result[f"ours{kind}"]
        assert reference["over_reference"] == 1.0 and ours["loss"] == pytest.approx(reference["loss"], rel=1e-4)
        assert ours["over_reference"] == pytest.approx(reference["median_ms"] / ours["median_ms"], rel=0.1)


def test_precisions_stand_beside_each_other(capsys):
    assert training_speed.main("--model random --batch 1 --frames 4 --rounds 1 --precision float32 bf16".split()) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result["shapes"]) == {"random", "random, bf16"} and result["precision"] == ["float32", "bf16"]
    exact, half = result["shapes"].values()
    assert half["ours"]["loss"] == pytest.approx(exact["ours"]["loss"], rel=0.05)
    assert half["ours"]["loss"] != exact["ours"]["loss"] and half["ours"]["kept_mb"] != exact["ours"]["kept_mb"]
