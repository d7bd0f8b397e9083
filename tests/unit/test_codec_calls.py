"""The bench that puts a codec's streams beside one fused call."""

import json

import pytest

from benchmarks import codec_calls
from benchmarks.cost import random_model, static_cost
from duplex.fast.backends import with_backend


@pytest.mark.slow
def test_every_way_is_timed_and_put_on_record(tmp_path, capsys):
    model = with_backend(random_model("random-4m", "cpu"), "native")
    found = codec_calls.measure(model.codec, frames=3, rounds=1, seed=0)
    assert list(found) == list(codec_calls.WAYS) and all(value > 0 for halves in found.values() for value in halves.values())
    path = tmp_path / "calls.json"
    assert codec_calls.main(["--model", "random-4m", "--seconds", "0.24", "--rounds", "1", "--json", str(path)]) == 0
    result = json.loads(path.read_text())["codecs"]["random-4m"]
    assert result["codec_parameters"] == static_cost(model)["codec_parameters"]  # with the codebooks, as everywhere
    assert result["over_fused"]["fused"] == 1.0 and "one fused call" in capsys.readouterr().out


def test_a_shape_that_does_not_exist_is_named(capsys):
    assert codec_calls.main(["--model", "random-3m"]) == 2
    assert "random-3m: no such shape" in capsys.readouterr().err
