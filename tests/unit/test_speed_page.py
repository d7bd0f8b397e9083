"""docs/speed.md says what the results beside it say."""

from __future__ import annotations

import shutil

import pytest

from benchmarks import speed_page
from duplex.errors import InputError


def test_the_page_is_that_of_the_results():
    page = speed_page.PAGE.read_text(encoding="utf-8")
    assert speed_page.written(page) == page, "run python -m benchmarks.speed_page"
    assert {name for _, name, _ in speed_page._BLOCK.findall(page)} == set(speed_page.TABLES)
    assert (speed_page.RESULTS / speed_page.PLOT).is_file()


def test_a_changed_number_is_noticed(monkeypatch):
    page = speed_page.PAGE.read_text(encoding="utf-8")
    real = speed_page.result

    def changed(name):
        found = real(name)
        if name == "latency-tiny":
            found["session"]["session"]["p99_ms"] += 1
        return found

    monkeypatch.setattr(speed_page, "result", changed)
    assert speed_page.written(page) != page


def test_unknown_tables_and_missing_results_are_named(tmp_path):
    with pytest.raises(InputError, match="no table 'nothing'"):
        speed_page.written("<!-- speed:nothing -->\n<!-- /speed -->")
    with pytest.raises(InputError, match="none.json"):
        speed_page.result("none", tmp_path)


def test_every_result_says_when_where_and_with_what():
    patterns = ("latency-*.json", "quantised.json", "training*.json", "dialogue-*.json", "profile-*.json")
    paths = [path for pattern in patterns for path in speed_page.RESULTS.glob(pattern)]
    assert paths
    for path in paths:
        found = speed_page.record.read(path)
        assert {"date", "commit", "machine", "seed", "command"} <= found.keys(), path.name


def test_tables_that_wait_for_a_result_say_so_and_show_it_when_it_is_there(tmp_path, monkeypatch):
    for path in speed_page.RESULTS.glob("*.json"):
        if not path.name.startswith(("dialogue-", "profile-", "training-")):
            shutil.copy(path, tmp_path)
    monkeypatch.setattr(speed_page, "RESULTS", tmp_path)
    monkeypatch.setattr(speed_page.result, "__defaults__", (tmp_path,))
    waiting = ("dialogue", "profile-rows", "profile-training", "profile-start", "training-compiled")
    page = "".join(f"<!-- speed:{name} -->\n<!-- /speed -->\n" for name in waiting)
    assert speed_page.written(page).count("Not measured: there is no ") == len(waiting)

    def put(name, **more):
        speed_page.record.write(tmp_path / f"{name}.json", speed_page.record.stamp(name, 0) | more)

    def scores(value):
        return {"behaviour": {"turn.right": {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 9}}}

    put("dialogue-exact", backends={"tiny, native": "native"}, systems={"tiny, native": scores(0.75), "oracle": scores(1.0)})
    assert "| right answer ↑ | 75.0 % [65.0, 85.0] (n = 9) | not measured | not measured |" in speed_page.written(page)
    put("dialogue-int8", backends={"tiny, native-int8": "native-int8"}, systems={"tiny, native-int8": scores(0.5)})
    groups = {f"{name}_ms": 1.0 for name in ("products", "attention", "elementwise", "memory", "overhead")}
    put("profile-rows", lines=[{"model": "m", "way": "native", "rows": 8, "total_ms": 5.0, **groups, "weights_gb_s": 9.0,
                                "kv_gb_s": 8.0, "loop_gb_s": 10.0}])
    put("profile-training", lines=[{"model": "m", "way": "ours", "total_ms": 5.0, **groups, "operators": 77}])
    packages = [{"package": f"p{n}", "modules": n, "import_s": 0.5, "loading_s": 0.25} for n in range(10)]
    put("profile-start", start={"packages": packages, "imports_s": 5.5, "model_s": 3.0, "imports_while_loading_s": 2.5})
    put("training-compiled", shapes={"m": {"parameters": 1, "ours, compiled": {
        "frames_per_s": 10.0, "tokens_per_s": 90.0, "kept_mb": 3.0, "over_reference": 1.25}}})
    found = speed_page.written(page)
    assert "| 75.0 % [65.0, 85.0] (n = 9) | 50.0 % [40.0, 60.0] (n = 9) | not measured |" in found
    assert "| m, native, 8 rows | 5.00 | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | — | 9.0 / 8.0 / 10.0 |" in found
    assert "| m, ours | 5.00 | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 77 | — |" in found and "Not measured" not in found
    assert "| 2 others | 17 | 1.00 | 0.50 |" in found and "| all imports |  | 5.00 | 2.50 |" in found
    assert "| m, ours, compiled | 10 | 90 | 3 | 1.25× |" in found


def run(at, native=2.0, **more):
    """A latency result of a context of 100 frames whose step grows from 1 to 3 ms over it."""
    lane = {"model": {"cpu_p50_ms": native}, "encode": {"cpu_p50_ms": 1.0}, "decode": {"cpu_p50_ms": 1.0}}
    bound = {"lm_weight_bytes": 8e6, "kv_bytes": 4e6, "model_bandwidth_gb_s": 8.0, "peak_gflops": 10.0}
    cost = {"roofline": bound, "temporal_flops": 1e6, "depth_flops": 1e6, "lm_parameters": 2e6, "codec_parameters": 3e6}
    steps = [{"frames": t, "cpu_p50_ms": ms, "n": 12} for t, ms in ((0, 1.0), (100, 3.0))]
    return {"model": "random-4m", "backend": "native", "frames": 20, "warmup_frames": at - 10, "context_frames": 100,
            "cost": cost, "stages": lane, "moshi": {**lane, "model": {"cpu_p50_ms": 24.0}}, "by_context": steps,
            "moshi_over_ours_cpu": {"model": 24.0 / native}} | more


def test_a_full_context_is_estimated_from_what_was_missing():
    assert speed_page.at_full_context(run(50)) == 3.0 and speed_page.at_full_context(run(10)) == pytest.approx(3.8)
    assert speed_page.at_full_context(run(500)) == 2.0  # nothing was missing
    assert speed_page.at_full_context(run(50, by_context=[])) is None
    with pytest.raises(InputError, match="no lane native-int8"):
        speed_page.at_full_context(run(50), "native-int8")


def test_ratios_say_context_frames_and_whether_the_tokens_were_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(speed_page, "RESULTS", tmp_path)
    monkeypatch.setattr(speed_page.result, "__defaults__", (tmp_path,))
    monkeypatch.setattr(speed_page, "RATIO_TARGETS", {("random-4m", "native"): 10})

    def put(**found):
        speed_page.record.write(tmp_path / "latency-random-4m.json", speed_page.record.stamp("latency", 0) | found)
        return [speed_page.TABLES[name]() for name in ("ratios", "full-context", "cost", "targets")]

    ratios, full, cost, targets = put(**run(50))
    assert "| random-4m | 2.0 M | 20 | 50 of 100 | 24.00 | 2.00 | **12.0×** | 8.0× | — | — |" in ratios
    assert "measured at 50 of 100 frames 12.0×" in full and "estimated, 3.00 ms, 8.0×, **below** the target of 10×" in full
    assert "| random-4m | 50 of 100 | 8.0 MB + 2.0 MB | 2 | 8.0 | 1.25 | 2.00 | 1.60 |" in cost
    assert "| 4M, exact, over `LMGen.step` | 50 of 100 | 12.00× | ≥ 10× | yes |" in targets
    assert "| 4M, exact, estimated | full | 8.00× | ≥ 10× | **no** |" in targets
    same = {"identical_tokens": False, "equal_tokens": 8, "tokens": 9, "identical_codes": True, "equal_codes": 4, "codes": 4}
    ratios, full, _, targets = put(**run(500), agreement={"native": same})
    assert "| 100 of 100 | 24.00 | 2.00 | **12.0×** | 12.0× | native 8 of 9 | native 4 of 4 |" in ratios
    assert "measured at a full context, 12.0×, which reaches the target of 10×" in full and "estimated" not in targets


@pytest.mark.parametrize(("rows", "head"), [({"n": 99}, "max of 99"), ({"n": 100}, "p99"), ({}, "max of 8")])
def test_of_few_frames_the_slowest_is_no_percentile(rows, head, tmp_path, monkeypatch):
    monkeypatch.setattr(speed_page, "RESULTS", tmp_path)
    monkeypatch.setattr(speed_page.result, "__defaults__", (tmp_path,))
    row = dict.fromkeys(("p50_ms", "p99_ms", "ms_per_session", "throughput_gain", "model_ms", "model_throughput_gain"), 1.0)
    speed_page.record.write(tmp_path / "x.json", speed_page.record.stamp("latency", 0) | {"by_rows": [row | {"rows": 2} | rows]})
    assert f"| rows | n | frame p50 ms | {head} |" in speed_page.rows_of("x")
    assert f"| 2 | {rows.get('n', 8)} | 1.00 |" in speed_page.rows_of("x")
