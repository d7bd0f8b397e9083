"""The embedded model on the fixed set: a clear loss against what is on record fails the build (its speed does not)."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import subset
from duplex.checkpoint import load_model

RECORD = Path(__file__).resolve().parents[1] / "docs" / "results" / "subset.json"


def test_a_clear_loss_is_told_from_chance():
    before = {"turn.right": {"value": 0.8}, "pause.takes_over": {"value": 0.1}, "interruption.stops": {"value": None}}
    assert subset.losses(before, {"turn.right": {"value": 0.6}, "pause.takes_over": {"value": 0.3}}) == []
    lost = subset.losses(before, {"turn.right": {"value": 0.4}, "pause.takes_over": {"value": 0.5}})
    assert lost == ["turn.right was 0.80 and is 0.40", "pause.takes_over was 0.10 and is 0.50"]
    assert subset.losses(before, {"turn.right": {"value": None}, "pause.takes_over": {"value": 0.0}}) == [
        "turn.right was 0.80 and is gone"]
    assert subset.losses({"interruption.stops": {"value": 1.0, "n": 2}}, {"interruption.stops": {"value": 0.0}}) == []


@pytest.mark.slow
def test_the_embedded_model_is_no_worse_than_on_record():
    torch.set_num_threads(1)
    on_record = json.loads(RECORD.read_text(encoding="utf-8"))
    now = subset.measure(load_model("tiny", backend="auto"), subset.items(), on_record["seed"])
    assert now.keys() == on_record["scores"].keys()
    assert subset.losses(on_record["scores"], now) == []
