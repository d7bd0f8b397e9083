"""Statistics of self-dialogues by hand: each keeps its rates, and the table says how sure it is and how many there were."""

import json

import pytest

from benchmarks import selftalk

LOOP = "so it is " * 5


def found():
    """Two dialogues of 30 s: in the first both sides speak 3 s and one repeats itself, in the second nobody says a thing."""
    spans = [[(1.0, 4.0)], [(5.0, 8.0)], [], []]
    return {"temperature": 0.7} | selftalk.summed(spans, ["hello there", LOOP, "", ""], [2, 15, 0, 0], 30.0)


def test_each_dialogue_keeps_its_own_rates():
    row = found()
    assert [one["ipu"] for one in row["each"]] == [12, 0] and [one["gap"] for one in row["each"]] == [2, 0]
    assert [one["silent"] for one in row["each"]] == [False, True] and [one["loops"] for one in row["each"]] == [0.5, 0]
    assert [one["words_per_minute"] for one in row["each"]] == [34, 0]
    assert (row["silent"], row["loops"], row["words_per_minute"], row["dialogues"]) == (0.5, 0.25, 17, 2)
    for name in selftalk.RATES:  # all dialogues are equally long, so pooling them is their mean
        estimate = row["estimates"][name]
        assert estimate["value"] == pytest.approx(row[name]["seconds_per_minute"]) and estimate["n"] == 2
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert (row["estimates"]["ipu"]["low"], row["estimates"]["ipu"]["high"]) == (0, 12)
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_the_table_shows_intervals_collapse_and_number():
    lines = selftalk.table([found()]).splitlines()
    assert lines[0].endswith("| loops | words/min | silent | n |")
    assert lines[2].startswith("| 0.7 | 6.0 [0.0, 12.0] (2.0) |")
    assert lines[2].endswith("| 25 [0, 50] % | 17 [0, 34] | 50 [0, 100] % | 2 |")
    assert len({line.count("|") for line in lines}) == 1


def test_a_result_without_dialogues_of_its_own_has_the_plain_table():
    old = {name: value for name, value in found().items() if name not in ("each", "estimates")}
    lines = selftalk.table([old]).splitlines()
    assert lines[0].endswith("| loops | words/min |") and lines[2].endswith("| 25 % | 17 |")
    assert lines[2].startswith("| 0.7 | 6.0 (2.0) |") and lines[3].endswith("| *3.3* | | |")
