"""Activity to events: every kind on scripted dialogues, and what must hold on any dialogue."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex.errors import ConfigError
from duplex.testing import activity_of
from duplex.turns import EventKind, TurnConfig, TurnTracker, speech_spans, summarise
from duplex.units import FRAME_SECONDS

K = EventKind
INTERRUPTIONS = {K.BACKCHANNEL, K.BARGE_IN, K.YIELDED, K.FALSE_YIELD, K.RESUMED}


def run(system, user, frames=100):
    """Events of a dialogue whose speech is given as spans of (first frame, frame after the last)."""
    tracker, events = TurnTracker(), []
    for pair in zip(activity_of(system, frames), activity_of(user, frames), strict=True):
        events += tracker.push(*map(bool, pair))
    return events + list(tracker.flush())


def of(events, *kinds):
    """(kind, frame, frames) of the events of some kinds, for comparison with the script."""
    def frames(seconds):
        return None if seconds is None else round(seconds / FRAME_SECONDS)
    return [(event.kind, frames(event.time), frames(event.seconds))
            for event in sorted(events, key=lambda event: event.time) if event.kind in kinds]


def test_a_question_and_its_answer():
    events = run(system=[(30, 50)], user=[(5, 25)])
    assert of(events, *K) == [(K.USER_START, 5, None), (K.USER_STOP, 25, 20), (K.SYSTEM_START, 30, 5),
                              (K.SYSTEM_STOP, 50, 20)]
    summary = summarise(events, 8.0)
    assert summary.response_latencies == (pytest.approx(0.4),)
    assert summary.median_response_latency == pytest.approx(0.4)
    assert summary.user_speech_seconds == summary.system_speech_seconds == pytest.approx(1.6)


def test_only_the_first_stretch_after_the_other_side_is_an_answer():
    events = run(system=[(30, 40), (50, 60)], user=[(5, 10), (15, 25), (62, 70)])
    assert of(events, K.SYSTEM_START) == [(K.SYSTEM_START, 30, 5), (K.SYSTEM_START, 50, None)]
    assert of(events, K.USER_START)[-1] == (K.USER_START, 62, 2)


def test_two_silent_frames_are_a_pause_within_speech_and_three_are_not():
    assert len(of(run([], [(5, 10), (12, 20)]), K.USER_START)) == 1
    assert len(of(run([], [(5, 10), (13, 20)]), K.USER_START)) == 2


def test_one_active_frame_is_a_click():
    assert run([], [(5, 6), (10, 11)]) == []


def test_a_backchannel_leaves_the_system_speaking():
    events = run(system=[(10, 60)], user=[(20, 26)])
    assert of(events, *INTERRUPTIONS) == [(K.BACKCHANNEL, 20, 6)]
    assert of(events, K.OVERLAP_START) == [(K.OVERLAP_START, 20, None)]
    assert of(events, K.OVERLAP_STOP) == [(K.OVERLAP_STOP, 26, 6)]


def test_an_acknowledgement_may_lie_across_the_grid():
    # 0.7 s touch ten frames at most; what touches eleven is longer.
    assert of(run(system=[(10, 60)], user=[(20, 30)]), *INTERRUPTIONS) == [(K.BACKCHANNEL, 20, 10)]
    assert of(run(system=[(10, 60)], user=[(20, 31)]), *INTERRUPTIONS) == [(K.BARGE_IN, 20, None)]


def test_a_barge_in_that_the_system_yields_to():
    events = run(system=[(10, 30), (60, 80)], user=[(20, 50)])
    assert of(events, *INTERRUPTIONS) == [(K.BARGE_IN, 20, None), (K.YIELDED, 30, 10), (K.RESUMED, 60, 30)]
    summary = summarise(events, 8.0)
    assert (summary.barge_ins, summary.times_to_yield) == (1, (pytest.approx(0.8),))
    assert of(events, K.SYSTEM_START)[-1] == (K.SYSTEM_START, 60, 10)


def test_a_barge_in_that_the_system_ignores():
    events = run(system=[(10, 80)], user=[(20, 45)])
    assert of(events, *INTERRUPTIONS) == [(K.BARGE_IN, 20, None)]
    assert summarise(events, 8.0).times_to_yield == ()


def test_a_stop_long_after_a_barge_in_is_no_yield():
    # 2 s are 25 frames: silent after exactly that is a yield, one frame later is not.
    assert of(run(system=[(10, 45)], user=[(20, 60)]), K.YIELDED) == [(K.YIELDED, 45, 25)]
    assert of(run(system=[(10, 46)], user=[(20, 60)]), *INTERRUPTIONS) == [(K.BARGE_IN, 20, None)]


def test_a_yield_after_the_user_has_stopped_counts_within_its_time():
    events = run(system=[(10, 40)], user=[(20, 32)])
    assert of(events, *INTERRUPTIONS) == [(K.BARGE_IN, 20, None), (K.YIELDED, 40, 20)]


def test_a_yield_to_a_backchannel_is_false_and_the_system_may_resume():
    events = run(system=[(10, 26), (45, 60)], user=[(20, 26)])
    assert of(events, *INTERRUPTIONS) == [(K.BARGE_IN, 20, None), (K.YIELDED, 26, 6), (K.FALSE_YIELD, 26, 6),
                                          (K.RESUMED, 45, 19)]


def test_a_false_yield_is_told_when_the_user_stops_after_the_system():
    events = run(system=[(10, 24)], user=[(20, 28)])
    assert of(events, *INTERRUPTIONS) == [(K.BARGE_IN, 20, None), (K.YIELDED, 24, 4), (K.FALSE_YIELD, 28, 8)]


def test_speech_over_the_last_moment_of_a_turn_is_no_interruption():
    events = run(system=[(10, 22)], user=[(20, 50)])
    assert of(events, *INTERRUPTIONS) == []
    assert of(events, K.OVERLAP_STOP) == [(K.OVERLAP_STOP, 22, 2)]
    assert of(run(system=[(10, 23)], user=[(20, 50)]), K.YIELDED) == [(K.YIELDED, 23, 3)]


def test_a_system_that_starts_over_the_user_is_counted_and_has_no_latency():
    events = run(system=[(20, 60)], user=[(10, 30)])
    assert of(events, K.SYSTEM_START) == [(K.SYSTEM_START, 20, None)]
    assert of(events, *INTERRUPTIONS) == []
    summary = summarise(events, 8.0)
    assert (summary.starts_over_user, summary.response_latencies) == (1, ())


def test_the_end_of_the_recording_is_no_yield():
    events = run(system=[(10, 40)], user=[(28, 40)], frames=40)
    assert of(events, *INTERRUPTIONS) == [(K.BARGE_IN, 28, None)]
    assert of(events, K.SYSTEM_STOP) == [(K.SYSTEM_STOP, 40, 30)]


def test_a_second_barge_in_is_another_one():
    events = run(system=[(0, 30), (40, 70)], user=[(20, 35), (55, 80)])
    assert Counter(event.kind for event in events)[K.BARGE_IN] == 2
    assert summarise(events, 8.0).times_to_yield == (pytest.approx(0.8), pytest.approx(1.2))


flags = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=150)
# Booleans drawn one by one hardly ever make speech; runs do.
runs = st.lists(st.tuples(st.tuples(st.booleans(), st.booleans()), st.integers(1, 30)), max_size=14).map(
    lambda runs: [pair for pair, length in runs for _ in range(length)])


def naive_speech(active):
    """Spans of speech, found with the whole recording in view: 2 frames begin it, 3 silent ones end it."""
    spans, frame = [], 0
    active = list(active)
    while frame < len(active):
        if active[frame : frame + 2] == [True, True]:
            end = frame + 2
            while any(active[end : end + 3]):
                end += active[end : end + 3].index(True) + 1
            spans.append((frame, end))
            frame = end + 3
        else:
            frame += 1
    return spans


@given(flags | runs)
def test_speech_is_what_a_look_at_the_whole_recording_finds(frames):
    tracker, events = TurnTracker(), []
    for pair in frames:
        events += tracker.push(*pair)
    events += tracker.flush()
    for side, column in (("system", 0), ("user", 1)):
        spans = [(round(a / FRAME_SECONDS), round(b / FRAME_SECONDS)) for a, b in speech_spans(events, side)]
        assert spans == naive_speech(pair[column] for pair in frames)


@given(flags | runs)
def test_any_dialogue_gives_events_that_fit_together(frames):
    tracker, told = TurnTracker(), []
    for pair in frames:
        told.append(tracker.push(*pair))
    told.append(tracker.flush())
    events = [event for batch in told for event in batch]
    count = Counter(event.kind for event in events)
    assert count[K.USER_START] == count[K.USER_STOP] and count[K.SYSTEM_START] == count[K.SYSTEM_STOP]
    assert count[K.OVERLAP_START] == count[K.OVERLAP_STOP]
    assert count[K.BARGE_IN] >= count[K.YIELDED] >= max(count[K.FALSE_YIELD], count[K.RESUMED])
    assert count[K.BACKCHANNEL] + count[K.BARGE_IN] <= count[K.OVERLAP_START]
    for index, batch in enumerate(told):
        known = min(index + 1, len(frames)) * FRAME_SECONDS
        for event in batch:
            assert 0 <= event.time <= event.known == pytest.approx(known)
    overlap = summarise(events, 1.0).overlap_seconds
    system, user = (naive_speech(pair[column] for pair in frames) for column in (0, 1))
    both = sum(max(0, min(b, d) - max(a, c)) for a, b in system for c, d in user)
    assert overlap == pytest.approx(both * FRAME_SECONDS)


@given(runs, st.integers(0, 200))
def test_a_tracker_cut_and_continued_gives_the_same(frames, cut):
    tracker = TurnTracker()
    first = [event for pair in frames[:cut] for event in tracker.push(*pair)]
    copies = [tracker.clone(), TurnTracker.from_dict(json.loads(json.dumps(tracker.to_dict())))]
    rest = [event for pair in frames[cut:] for event in tracker.push(*pair)] + list(tracker.flush())
    for copied in copies:
        again = [event for pair in frames[cut:] for event in copied.push(*pair)] + list(copied.flush())
        assert again == rest
    assert all(event.known <= cut * FRAME_SECONDS + 1e-9 for event in first)


def test_start_frames_cannot_exceed_pause_frames():
    with pytest.raises(ConfigError, match="start_frames"):
        TurnConfig(start_frames=4, pause_frames=3)


def test_events_and_summary_become_json():
    events = run(system=[(10, 30), (60, 80)], user=[(20, 50)])
    for event in events:
        assert json.loads(json.dumps(event.to_dict()))["kind"] == event.kind.value
    assert json.loads(json.dumps(summarise(events, 8.0).to_dict()))["barge_ins"] == 1
