"""Full-Duplex-Bench scores: equal to what the public scorers gave for the same inputs, and right where those are not."""

import json
from pathlib import Path

import numpy as np
import pytest

from duplex.metrics.fullduplex import (
    backchannels,
    corrected_interruption,
    corrected_pause,
    corrected_turn,
    exact_take_over,
    jensen_shannon,
    response_intervals,
    stop_intervals,
    talks,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "full_duplex_bench.json").read_text(encoding="utf-8"))


def test_take_overs_are_those_of_the_public_scorers():
    for item in GOLDEN["take_over"]:
        words = [tuple(word) for word in item["words"]]
        assert exact_take_over(words).taken == bool(item["pause_tor"])
        for task in ("turn", "interruption"):
            if item[task] is not None:
                taken, latency = item[task]
                ours = exact_take_over(words, item["end"])
                assert ours.taken == bool(taken)
                assert ours.latency == (None if latency is None else pytest.approx(latency, abs=1e-6))


def test_the_shared_inputs_cover_both_outcomes():
    assert 5 < sum(item["pause_tor"] for item in GOLDEN["take_over"]) < 35
    assert 5 < sum(item["tor"] for item in GOLDEN["backchannel"]) < 35
    assert sum(len(item["stop"]) + len(item["response"]) for item in GOLDEN["timing"]) > 40


def test_backchannels_are_those_of_the_public_scorer():
    for item in GOLDEN["backchannel"]:
        ours = backchannels(item["segments"], [tuple(word) for word in item["words"]], item["duration"], item["people"])
        assert ours.taken == bool(item["tor"])
        assert ours.per_second == pytest.approx(item["freq"], abs=1e-6)
        assert ours.divergence == pytest.approx(item["jsd"], abs=1e-6)


def test_latencies_are_those_of_the_public_scorer():
    for item in GOLDEN["timing"]:
        for ours, theirs in ((stop_intervals, "stop"), (response_intervals, "response")):
            found = np.reshape(ours(item["user"], item["model"]), (-1, 2))
            assert np.array_equal(np.round(found, 6), np.reshape(item[theirs], (-1, 2)))


GREETING = [("hello", 0.2, 0.5), ("how", 0.6, 0.8), ("are", 0.85, 1.0), ("you", 1.05, 1.3)]
ANSWER = [("nine", 6.4, 6.7), ("plus", 6.8, 7.0), ("two", 7.1, 7.4)]


def test_a_greeting_counts_for_the_exact_form_alone():
    assert exact_take_over([*GREETING, *ANSWER], 6.0).latency == 0.0
    assert corrected_turn([*GREETING, *ANSWER], 6.0).latency == pytest.approx(0.4)
    assert exact_take_over(GREETING).taken and not corrected_pause(GREETING, [(3.0, 3.8)]).taken
    assert corrected_pause([("well", 3.2, 3.5), ("i", 3.6, 4.0), ("see", 4.0, 4.4)], [(3.0, 3.8)]).taken
    assert not corrected_pause([("mhm", 3.2, 3.5)], [(3.0, 3.8)]).taken
    assert not corrected_turn(GREETING, 6.0).taken


def test_going_on_regardless_is_no_answer_to_an_interruption():
    goes_on = [(f"w{n}", 1.0 + 0.3 * n, 1.25 + 0.3 * n) for n in range(20)]
    assert exact_take_over(goes_on, 4.0).taken
    assert not corrected_interruption(goes_on, (3.0, 4.0)).taken
    stops = [word for word in goes_on if word[1] < 3.4]
    assert corrected_interruption([*stops, *ANSWER], (3.0, 6.0)).latency == pytest.approx(0.4)


def test_one_take_over_is_not_undone_by_a_later_backchannel():
    words = [(f"w{n}", 1 + 0.2 * n, 1.15 + 0.2 * n) for n in range(6)] + [("mhm", 5.0, 5.3)]
    segments, people = [(1.0, 2.2), (5.0, 5.4)], [0.1] * 10
    assert not backchannels(segments, words, 8.0, people).taken
    corrected = backchannels(segments, words, 8.0, people, exact=False)
    assert corrected.taken and corrected.events == ((5.0, 5.4),)
    assert backchannels([], [], 8.0, people).divergence == 1


def test_distance_of_distributions():
    assert jensen_shannon(np.array([0.5, 0.5]), np.array([2, 2])) == 0
    assert jensen_shannon(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(np.sqrt(np.log(2)))


def test_talks():
    assert [len(talk) for talk in talks([*GREETING, ("x", None, 2.0), *ANSWER])] == [4, 3]
