"""The latency benchmark: its arithmetic on known numbers, and its whole way on small random models."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch

from benchmarks import cost as costs
from benchmarks import growth, kinds, lanes, latency
from duplex.checkpoint import load_model
from duplex.errors import InputError
from duplex.testing import fake_loaded_model, tiny_lm_config

KEYS = {"cpu_p50_ms", "cpu_p95_ms", "cpu_p99_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms", "real_time_factor", "deadline_misses"}
PLAIN = ["resample", "encode", "temporal", "depth", "sampling", "model", "decode", "playout", "together"]


def check_statistics(stages, names):
    assert set(stages) == set(names)
    for s in stages.values():
        assert set(s) == KEYS and all(math.isfinite(value) for value in s.values())
        assert 0 < s["p50_ms"] <= s["p95_ms"] <= s["p99_ms"] <= s["max_ms"]
        assert s["real_time_factor"] > 0


def test_statistics_are_of_observed_frames():
    milliseconds = [*range(1, 100), 90.0]  # 1..99 and one more above the deadline of 80 ms
    s = latency.statistics([(value / 1e3, value / 2e3) for value in reversed(milliseconds)])
    assert (s["p50_ms"], s["p95_ms"], s["p99_ms"], s["max_ms"]) == (50.0, 94.0, 98.0, 99.0)
    assert (s["cpu_p50_ms"], s["cpu_p99_ms"]) == (25.0, 49.0)
    assert s["deadline_misses"] == 19 + 1
    assert s["real_time_factor"] == pytest.approx(sum(milliseconds) / 100 / 80, abs=1e-4)
    exact = latency.statistics([(0.08, 0.01)])
    assert exact["deadline_misses"] == 0 and exact["real_time_factor"] == 1.0


def test_only_frames_after_the_warm_up_are_counted(monkeypatch):
    counted = {}
    monkeypatch.setattr(latency, "statistics", lambda spent: counted.setdefault(len(counted), len(spent)) or {})
    latency.measure(fake_loaded_model(), frames=3, warmup=4)
    assert list(counted.values()) == [3] * (len(PLAIN) + 1)  # those of the stages and the session's


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
    argv = f"--model {saved} --frames 4 --warmup 2 --backend naive --reference moshi --json {out}".split()
    assert latency.main(argv) == 0
    said = capsys.readouterr()
    result = json.loads(said.out.splitlines()[-1])
    assert said.err == "" and json.loads(out.read_text()) == result
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".model"] == [out.name]
    check_statistics(result["stages"], PLAIN)
    check_statistics(result["moshi"], [*latency.STAGES, "together"])
    check_statistics(result["session"], ["session"])
    for stage, ratio in result["moshi_over_ours_p50"].items():
        medians = [result[lane][stage]["p50_ms"] for lane in ("moshi", "stages")]
        assert ratio == pytest.approx(medians[0] / medians[1], abs=1e-3)
    spent = [sum(result[lane][stage]["cpu_p50_ms"] for stage in latency.STAGES) for lane in ("moshi", "stages")]
    assert 0 < spent[1] and 0 < result["moshi_over_ours_cpu"]["together"] < 3 * spent[0] / spent[1]
    assert (result["frames"], result["warmup_frames"], result["threads"]) == (4, 2, 1)
    assert result["kind"] == result["benchmark"] == "latency" and result["backend"] == "naive"
    assert {"date", "commit", "machine", "seed", "memory", "multiple_of_roofline"} <= result.keys()
    same = result["agreement"]["naive"]
    assert same["identical_tokens"] and same["identical_codes"] and same["equal_codes"] == same["codes"] > 0
    books = load_model(saved).config.dep_q
    assert same["tokens"] == (1 + books) * (latency.COMPARED_FRAMES - load_model(saved).config.max_delay)
    assert result["middle_context_frames"] == 4 and result["codec_context_frames"] > 0
    codec = load_model(saved).codec.mimi
    assert result["cost"]["codec_parameters"] > sum(weight.numel() for weight in codec.parameters()) > 0


def test_random_weights_need_no_folder(capsys):
    assert latency.main("--model random --backend naive --frames 2 --warmup 0".split()) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["warmup_frames"] == 2  # never less than the acoustic delay and one more
    check_statistics(result["session"], ["session"])


def test_tokens_and_codes_that_differ_from_the_references_are_counted():
    model = costs.random_model()
    user = growth.user_sound()[4:14]
    same = lanes.agreement([model], user)["naive"]
    assert same["identical_tokens"] and same["identical_codes"] and same["codes"] == 10 * model.codec.n_codebooks
    assert same["equal_tokens"] == same["tokens"] == (10 - model.config.max_delay) * (1 + model.config.dep_q)
    changed = costs.random_model()
    with torch.no_grad():
        changed.lm.text_linear.weight.neg_()
        changed.codec.mimi.quantizer.rvq_first.input_proj.weight.neg_()
    differs = lanes.agreement([model, changed], user)["naive"]  # both are called naive, and the last one counts
    assert not differs["identical_tokens"] and differs["equal_tokens"] < differs["tokens"] == same["tokens"]
    assert not differs["identical_codes"] and differs["equal_codes"] < differs["codes"] == same["codes"]


def test_a_bound_counts_keys_and_values_as_far_as_the_context_was_filled():
    bound = {"lm_weight_bytes": 8e6, "kv_bytes": 4e6, "model_bandwidth_gb_s": 2.0, "codec_bandwidth_gb_s": 4.0,
             "peak_gflops": 10.0}
    cost = {"roofline": bound, "temporal_flops": 6e6, "depth_flops": 4e6, "codec_flops": 2e6, "codec_bytes_per_frame": 1e6}
    assert costs.least_ms(cost) == pytest.approx(6.0) and costs.least_ms(cost, 0.25) == pytest.approx(4.5)
    assert costs.least_ms(cost, rows=4) == pytest.approx(12.0) and costs.least_ms(cost, 0, rows=8) == pytest.approx(8.0)
    assert costs.least_codec_ms(cost) == pytest.approx(0.25) and costs.least_codec_ms(cost, 10) == pytest.approx(2.0)
    run = {"context_frames": 100, "warmup_frames": 20, "frames": 11}
    assert costs.middle_context(run) == 25 and costs.filled_share(run) == 0.25
    assert costs.middle_context(run | {"frames": 600}) == 100 and costs.filled_share(run | {"context_frames": 0}) == 1.0


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="needs a C++ compiler (Debian: g++)")
def test_backends_run_beside_each_other(capsys):
    argv = "--model random --backend native naive --frames 6 --warmup 3 --contexts 0 900 --rows 1 3 --call-minutes 0.02"
    assert latency.main(argv.split()) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    check_statistics(result["stages"], PLAIN)
    check_statistics(result["naive"], PLAIN)
    assert result["stages"]["model"]["p50_ms"] < result["naive"]["model"]["p50_ms"]
    parts = sum(result["stages"][stage]["p50_ms"] for stage in ("temporal", "depth", "sampling"))
    assert parts < 1.5 * result["stages"]["model"]["max_ms"]
    assert [row["frames"] for row in result["by_context"]] == [0, 900]
    assert [row["n"] for row in result["by_context"]] == [latency.CONTEXT_ROUNDS] * 2
    assert [row["n"] for row in result["by_rows"]] == [8, 8]
    assert [row["rows"] for row in result["by_rows"]] == [1, 3] and result["by_rows"][0]["throughput_gain"] == 1.0
    assert len(result["call"]) == 6 and result["call"][-1]["until_minute"] == 0.02
    assert result["memory"]["bytes_per_session"] > 4 * 2 * 4 * 192 * 750  # keys and values of the context


def test_operations_are_those_of_the_matrices():
    model = costs.random_model("random-4m")
    c, counted = model.config, costs.operations(model)
    inner = model.lm.transformer.layers[0].gating.linear_out.in_features
    temporal = c.num_layers * (4 * c.dim**2 + 3 * c.dim * inner + 2 * c.context * c.dim) + c.text_card * c.dim
    assert counted["temporal_flops"] == 2 * temporal
    d, f = c.depformer_dim, model.lm.depformer.layers[0].gating[0].linear_out.in_features
    depth = c.dep_q * (c.depformer_num_layers * (4 * d**2 + 3 * d * f) + c.card * d + c.dim * d)
    assert counted["depth_flops"] == 2 * depth
    assert counted["codec_flops"] > 2 * 1920 * 16 * 7  # its first convolution alone


def test_the_five_kinds_are_told_apart():
    user, system = np.zeros(40, bool), np.zeros(40, bool)
    user[5:10] = user[20:25] = user[30:33] = True
    system[14:22] = True  # answers four frames after the first speech, is interrupted two frames before it stops
    assert kinds.responses(user, system) == [4]
    assert kinds.stops(user, system) == [2]
    model = fake_loaded_model()
    found = kinds.five_kinds(model, {"p50_ms": 1.0, "p99_ms": 2.0})
    assert list(found) == ["algorithmic", "compute", "first packet", "response", "stop"]
    assert found["algorithmic"]["ms"] == 160.0 < found["first packet"]["ms"]
    assert all(found[name]["n"] >= 0 for name in ("response", "stop"))


def test_interleaving_turns_the_order_round():
    order = []
    times = growth.interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 3)
    assert "".join(order) == "baabba" and all(len(spans) == 3 for spans in times.values())


@pytest.mark.parametrize("argv, word", [
    ("--model nowhere/at/all --frames 2", "nowhere/at/all"), ("--frames 0", "0 is less than 1"),
    ("--model random --json missing/folder/x.json", "missing/folder/x.json"), ("--reference other", "other"),
    ("--device warp", "warp"), ("--backend steam", "steam"), ("--model random-9t --frames 2", "random-9t")])
def test_bad_input_is_one_line(argv, word, capsys):
    assert latency.main(argv.split()) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1 and word in said.err


def test_reference_refuses_what_it_cannot_match():
    with pytest.raises(InputError, match="not a Mimi"):
        latency.MoshiLane(fake_loaded_model())
    both = costs.random_model()
    both = type(both)(**{**vars(both), "config": tiny_lm_config(dep_q=8)})
    with pytest.raises(InputError, match="predicts the user"):
        latency.MoshiLane(both)


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
