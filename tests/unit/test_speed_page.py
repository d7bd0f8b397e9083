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
