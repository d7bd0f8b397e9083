"""docs/speed.md says what the results beside it say."""

from __future__ import annotations

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
    patterns = ("latency-*.json", "quantised.json", "training.json")
    paths = [path for pattern in patterns for path in speed_page.RESULTS.glob(pattern)]
    assert paths
    for path in paths:
        found = speed_page.record.read(path)
        assert {"date", "commit", "machine", "seed", "command"} <= found.keys(), path.name
