"""The latency benchmark: its arithmetic on known numbers, and its whole way on small random models."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks import latency
from duplex.checkpoint import load_model
from duplex.errors import InputError
from duplex.testing import fake_loaded_model, tiny_lm_config

KEYS = {"p50_ms", "p95_ms", "p99_ms", "max_ms", "real_time_factor", "deadline_misses"}


def check_statistics(stages, names):
    assert set(stages) == set(names)
    for s in stages.values():
        assert set(s) == KEYS and all(math.isfinite(value) for value in s.values())
        assert 0 < s["p50_ms"] <= s["p95_ms"] <= s["p99_ms"] <= s["max_ms"]
        assert s["real_time_factor"] > 0


def test_statistics_are_of_observed_frames():
    milliseconds = [*range(1, 100), 90.0]  # 1..99 and one more above the deadline of 80 ms
    s = latency.statistics([value / 1e3 for value in reversed(milliseconds)])
    assert (s["p50_ms"], s["p95_ms"], s["p99_ms"], s["max_ms"]) == (50.0, 94.0, 98.0, 99.0)
    assert s["deadline_misses"] == 19 + 1
    assert s["real_time_factor"] == pytest.approx(sum(milliseconds) / 100 / 80, abs=1e-4)
    exact = latency.statistics([0.08])
    assert exact["deadline_misses"] == 0 and exact["real_time_factor"] == 1.0


def test_only_frames_after_the_warm_up_are_counted(monkeypatch):
    counted = {}
    monkeypatch.setattr(latency, "statistics", lambda seconds: counted.setdefault(len(counted), len(seconds)) or {})
    latency.measure(fake_loaded_model(), frames=3, warmup=4)
    assert list(counted.values()) == [3] * 5  # four numbers of the stages, one of the session


def test_cost_counts_one_row_of_each_table():
    model = fake_loaded_model()
    c, cost = model.config, latency.static_cost(model)
    tables = c.n_q * (c.card + 1) * c.dim + (c.text_card + 1) * (c.dim + c.depformer_dim)
    tables += (c.dep_q - 1) * (c.card + 1) * c.depformer_dim
    rows = (c.n_q + 1) * c.dim + c.dep_q * c.depformer_dim
    assert cost["lm_parameters"] == sum(weight.numel() for weight in model.lm.parameters())
    assert cost["lm_bytes_per_frame"] == 4 * (cost["lm_parameters"] - tables + rows)
    assert cost["codec_parameters"] == cost["codec_bytes_per_frame"] == 0  # the fake codec has no weights


def test_a_model_folder_beside_the_reference(saved, tmp_path, capsys):
    out = tmp_path / "latency.json"
    argv = f"--model {saved} --frames 4 --warmup 2 --reference moshi --json {out}".split()
    assert latency.main(argv) == 0
    said = capsys.readouterr()
    result = json.loads(said.out.splitlines()[-1])
    assert said.err == "" and json.loads(out.read_text()) == result
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".model"] == [out.name]
    check_statistics(result["stages"], [*latency.STAGES, "together"])
    check_statistics(result["moshi"], [*latency.STAGES, "together"])
    check_statistics(result["session"], ["session"])
    for stage, ratio in result["moshi_over_ours_p50"].items():
        medians = [result[lane][stage]["p50_ms"] for lane in ("moshi", "stages")]
        assert ratio == pytest.approx(medians[0] / medians[1], abs=1e-3)
    assert (result["frames"], result["warmup_frames"], result["threads"]) == (4, 2, 1)
    codec = load_model(saved).codec.mimi
    assert result["cost"]["codec_parameters"] > sum(weight.numel() for weight in codec.parameters()) > 0


def test_random_weights_need_no_folder(capsys):
    assert latency.main("--model random --frames 2 --warmup 0".split()) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["warmup_frames"] == 2  # never less than the acoustic delay and one more
    check_statistics(result["session"], ["session"])


@pytest.mark.parametrize("argv, word", [
    ("--model nowhere/at/all --frames 2", "nowhere/at/all"), ("--frames 0", "0 is less than 1"),
    ("--model random --json missing/folder/x.json", "missing/folder/x.json"), ("--reference other", "other"),
    ("--device warp", "warp")])
def test_bad_input_is_one_line(argv, word, capsys):
    assert latency.main(argv.split()) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1 and word in said.err


def test_reference_refuses_what_it_cannot_match():
    with pytest.raises(InputError, match="not a Mimi"):
        latency.MoshiLane(fake_loaded_model())
    both = latency.random_model()
    both = type(both)(**{**vars(both), "config": tiny_lm_config(dep_q=8)})
    with pytest.raises(InputError, match="predicts the user"):
        latency.MoshiLane(both)


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
