"""Turn-taking statistics: dialogues whose result is plain, and a naive millisecond grid as the reference."""


import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex.errors import InputError
from duplex.metrics.turntaking import intersect, join, pooled, segments_of, turn_events, turn_taking_statistics


def grid(system, user, duration):
    """The same by marking every millisecond: seconds of (ipu, pause, gap, overlap) and their counts."""
    length = round(duration * 1000)
    lines = []
    for segments in (system, user):
        line = [False] * length
        for start, end in segments:
            for i in range(round(start * 1000), min(length, round(end * 1000))):
                line[i] = True
        i = 0
        while i < length:  # close silences of at most 200 ms between speech
            if not line[i]:
                j = i
                while j < length and not line[j]:
                    j += 1
                if 0 < i and j < length and j - i <= 200:
                    line[i:j] = [True] * (j - i)
                i = j
            i += 1
        lines.append(line)

    def runs(line):
        found, start = [], None
        for i, value in enumerate([*line, False]):
            if value and start is None:
                start = i
            elif not value and start is not None:
                found.append((start, i))
                start = None
        return found

    a, b = lines
    silences = runs([not (x or y) for x, y in zip(a, b, strict=True)])
    pauses, gaps = [], []
    for start, end in silences:
        if start > 0 and end < length:
            same = (a[start - 1] and a[end]) or (b[start - 1] and b[end])
            (pauses if same else gaps).append((start, end))
    found = {"ipu": runs(a) + runs(b), "pause": pauses, "gap": gaps,
             "overlap": runs([x and y for x, y in zip(a, b, strict=True)])}
    return {name: (len(r), sum(e - s for s, e in r) / 1000) for name, r in found.items()}


spans = st.lists(st.tuples(st.integers(0, 5900), st.integers(10, 1500)), max_size=8).map(
    lambda found: [(start / 1000, min(6000, start + length) / 1000) for start, length in found])


@settings(max_examples=150, deadline=None)
@given(spans, spans)
def test_equal_to_a_grid_of_milliseconds(system, user):
    result, reference = turn_taking_statistics(system, user, 6.0), grid(system, user, 6.0)
    for name, (count, seconds) in reference.items():
        assert result[name]["count"] == count, name
        assert result[name]["seconds"] == pytest.approx(seconds, abs=1e-6)
        assert result[name]["seconds_per_minute"] == pytest.approx(10 * seconds, abs=1e-5)


@settings(max_examples=80, deadline=None)
@given(spans, spans)
def test_the_parts_add_up_to_the_dialogue(system, user):
    events, result = turn_events(system, user, 6.0), turn_taking_statistics(system, user, 6.0)
    speech = [*events.system_ipus, *events.user_ipus]
    if speech:
        edges = min(s for s, _ in speech) + 6.0 - max(e for _, e in speech)
        total = result["ipu"]["seconds"] + result["pause"]["seconds"] + result["gap"]["seconds"] - result["overlap"]["seconds"]
        assert total + edges == pytest.approx(6.0, abs=1e-6)


def test_a_dialogue_by_hand():
    user = [(1.0, 2.0), (2.1, 3.0), (8.0, 9.0)]  # the short silence is closed
    system = [(3.5, 5.0), (5.6, 7.0), (8.5, 8.8)]  # the last lies inside the user's turn
    events = turn_events(system, user, 10.0)
    assert events.user_ipus == ((1.0, 3.0), (8.0, 9.0))
    assert events.pauses == ((5.0, 5.6),) and events.gaps == ((3.0, 3.5), (7.0, 8.0))
    assert events.overlaps == ((8.5, 8.8),)
    assert events.system_turns == ((3.5, 7.0), (8.5, 8.8)) and events.user_turns == ((1.0, 3.0), (8.0, 9.0))
    assert events.transfers == pytest.approx((0.5, 1.0))
    result = turn_taking_statistics(system, user, 10.0)
    assert result["ipu"]["per_minute"] == 30 and result["ipu"]["seconds"] == pytest.approx(6.2)
    assert result["transfer_median_s"] == pytest.approx(0.75)
    assert result["system_share"] == pytest.approx(0.32)


def test_a_backchannel_does_not_end_the_turn_around_it_and_a_barge_in_does():
    assert turn_events([(0, 6)], [(2, 2.5)], 10).transfers == ()
    assert turn_events([(0, 6), (6.5, 7)], [(2, 2.5)], 10).system_turns == ((0, 7),)
    barged = turn_events([(0, 3)], [(2, 5)], 10)
    assert barged.transfers == (-1.0,)


def test_silence_and_one_speaker():
    silent = turn_taking_statistics([], [], 60.0)
    assert silent["ipu"]["count"] == 0 and silent["ipu"]["mean_seconds"] is None and silent["transfer_median_s"] is None
    alone = turn_taking_statistics([(0, 60)], [], 60.0)
    assert alone["ipu"]["seconds_per_minute"] == 60 and alone["gap"]["count"] == alone["pause"]["count"] == 0


def test_segments_of_activity():
    assert segments_of([False, True, True, False, True], 0.5) == [(0.5, 1.5), (2.0, 2.5)]
    assert segments_of([]) == []
    assert join([(3.5, 4), (1, 2), (1.5, 2.9)], 0.2) == [(1, 2.9), (3.5, 4)]
    assert join([(0, 1), (1.2, 2)], 0.2) == [(0, 2)]  # exactly 0.2 s does not end an IPU
    assert intersect([(0, 2)], [(1, 3)]) == [(1, 2)]


def test_pooled_weighs_by_time():
    both = pooled([turn_taking_statistics([(0, 30)], [], 60.0), turn_taking_statistics([], [], 180.0)])
    assert both["ipu"]["seconds_per_minute"] == pytest.approx(7.5) and both["system_share"] == pytest.approx(0.125)


@pytest.mark.parametrize("bad", [([(2, 1)], [], 5.0), ([(0, float("nan"))], [], 5.0), ([], [], 0.0), ([], [], float("nan"))])
def test_refuses_what_cannot_be(bad):
    with pytest.raises(InputError):
        turn_taking_statistics(*bad)
    with pytest.raises(InputError):
        pooled([])
