"""Interruption policies: what counts as a barge-in, and what each policy does about one, to the frame."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from duplex.config import SamplingConfig
from duplex.errors import ConfigError
from duplex.playout import Piece
from duplex.policy import FORCED, GUARDED, LEARNED, POLICIES, HeardLog, InterruptionPolicy, PolicyConfig, Steering
from duplex.session import Session
from duplex.testing import fake_loaded_model, scripted_speech
from duplex.turns import EventKind
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, SAMPLE_RATE

K = EventKind
SPEECH, QUIET = (5, 6, 7), (0, 0, 0)


def steer(policy, pcm, system=lambda frame: True, codes=None):
    """Steering of each frame of a waveform; `system(frame)`: does the model make sound?"""
    found = []
    for number, frame in enumerate(pcm.reshape(-1, FRAME_SAMPLES)):
        heard = codes(number) if codes else (SPEECH if np.abs(frame).max() > 0.02 else QUIET)
        found.append(policy.hear(frame, heard))
        policy.say(system(number))
    return found


def acting(found):
    return [number for number, steering in enumerate(found) if steering != Steering()]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, FRAME_SAMPLES), st.floats(0.05, 0.7), st.sampled_from([GUARDED, FORCED]))
def test_an_acknowledgement_never_counts(offset, seconds, kind):
    pcm, samples = np.zeros(40 * FRAME_SAMPLES, np.float32), round(seconds * SAMPLE_RATE)
    start = 10 * FRAME_SAMPLES + offset
    pcm[start : start + samples] = scripted_speech([(0.0, 1.0)], 1.0)[:samples]
    policy = InterruptionPolicy(PolicyConfig(kind=kind))
    policy.say(True)
    assert acting(steer(policy, pcm)) == []


@settings(max_examples=30, deadline=None)
@given(st.integers(0, FRAME_SAMPLES - 1), st.sampled_from([0.8, 1.2]), st.sampled_from([GUARDED, FORCED]))
@example(1910, 0.8, GUARDED)  # the onset lies in the last samples of a frame that the detector still calls silent
def test_longer_speech_counts_as_soon_as_it_has_lasted_its_time(offset, after, kind):
    pcm = np.zeros(60 * FRAME_SAMPLES, np.float32)
    start = 10 * FRAME_SAMPLES + offset
    pcm[start:] = scripted_speech([(0.0, 5.0)], 5.0)[: len(pcm) - start]
    policy = InterruptionPolicy(PolicyConfig(kind=kind, after_seconds=after))
    policy.say(True)
    first = acting(steer(policy, pcm))[0]
    due = (start / SAMPLE_RATE + after) / FRAME_SECONDS  # in frames; known at the end of the frame in which it falls
    assert due - 0.13 <= first + 1 <= due + 1.3  # speech is measured in steps of 10 ms


def test_the_learned_policy_never_acts():
    policy = InterruptionPolicy(PolicyConfig(kind=LEARNED))
    policy.say(True)
    assert acting(steer(policy, scripted_speech([(0.8, 3.9)], 4.0))) == [] and policy.barge_in_seconds > 2.9


def test_speech_that_begins_while_the_system_is_silent_is_no_barge_in():
    policy = InterruptionPolicy(PolicyConfig(kind=GUARDED))
    assert acting(steer(policy, scripted_speech([(0.8, 3.9)], 4.0), system=lambda frame: frame > 20)) == []


def test_sound_that_gives_the_codes_of_silence_is_no_voice():
    policy = InterruptionPolicy(PolicyConfig(kind=FORCED))
    policy.say(True)
    assert acting(steer(policy, scripted_speech([(0.8, 3.9)], 4.0), codes=lambda frame: QUIET)) == []


def test_guarded_leans_harder_each_frame_then_silences_the_codes_and_lets_go_when_the_user_stops():
    policy = InterruptionPolicy(PolicyConfig(kind=GUARDED, pad_bias=3, most_bias=12))
    policy.say(True)
    found = steer(policy, scripted_speech([(0.8, 2.4)], 4.0))  # frames 10 to 29
    frames = acting(found)
    assert frames == list(range(19, 32))  # from 0.8 s on, until 0.24 s after the end
    assert [found[frame].pad_bias for frame in frames[:6]] == [3, 6, 9, 12, 12, 12]
    assert [found[frame].silent_codes for frame in frames] == [False] * 5 + [True] * 8
    assert not any(found[frame].mute or found[frame].flush for frame in frames)


def test_forced_flushes_once_and_is_silent_until_the_model_has_ended_its_turn():
    policy = InterruptionPolicy(PolicyConfig(kind=FORCED))
    policy.say(True)
    found = steer(policy, scripted_speech([(0.8, 4.0)], 5.6), system=lambda frame: frame < 30 or frame > 40)
    assert [n for n in acting(found) if found[n].flush] == [19]
    assert acting(found) == list(range(19, 33)) and all(found[n].mute for n in acting(found))


def test_forced_lets_a_model_be_heard_again_that_never_pauses():
    policy = InterruptionPolicy(PolicyConfig(kind=FORCED, let_go_seconds=0.8))
    policy.say(True)
    assert acting(steer(policy, scripted_speech([(0.8, 2.4)], 5.6)))[-1] == 29 + 3 + 9 - 1


def test_each_barge_in_is_acted_upon():
    policy = InterruptionPolicy(PolicyConfig(kind=FORCED, let_go_seconds=0.0))
    policy.say(True)
    found = steer(policy, scripted_speech([(0.8, 2.0), (3.2, 4.8)], 6.4))
    assert [n for n, steering in enumerate(found) if steering.flush] == [19, 49]


@given(st.integers(0, 49), st.sampled_from(POLICIES))
@settings(max_examples=15, deadline=None)
def test_a_policy_cut_and_continued_does_the_same(cut, kind):
    pcm, config = scripted_speech([(0.8, 2.4)], 4.0), PolicyConfig(kind=kind)
    whole = InterruptionPolicy(config)
    head, tail = pcm[: cut * FRAME_SAMPLES], pcm[cut * FRAME_SAMPLES :]
    steer(whole, head)
    copies = [whole.clone(), InterruptionPolicy.from_dict(json.loads(json.dumps(whole.to_dict())), config)]
    expected = steer(whole, tail)
    assert all(steer(copied, tail) == expected for copied in copies)


@pytest.mark.parametrize(("values", "says"), [
    ({"kind": "rude"}, "use one of learned, guarded, forced"), ({"after_seconds": 0.7}, "above 0.7"),
    ({"after_seconds": float("nan")}, "after_seconds"), ({"pad_bias": -1.0}, "pad_bias")])
def test_impossible_policies_are_refused(values, says):
    with pytest.raises(ConfigError, match=says):
        PolicyConfig(**values)


def test_what_was_heard_of_a_word():
    log = HeardLog()
    log.lose(5), log.lose(6, 0.25), log.lose(6, 0.5), log.lose(-1)
    assert log.seconds == pytest.approx(1.75 * FRAME_SECONDS) and log.lost == {5: 1.0, 6: 0.75}
    assert log.heard(0.0, 0.4) and not log.heard(0.4, 0.48) and not log.heard(0.4, 0.56)
    assert log.heard(0.4, 0.8) and not log.heard(0.45, 0.45)


MODEL = fake_loaded_model()
# The model talks all the time. The user acknowledges at 0.96 s for 0.64 s, and barges in at 2.4 s for 1.6 s.
SCRIPT = [(0.96, 1.6), (2.4, 4.0)]
USER = scripted_speech(SCRIPT, 5.6, 300.0).reshape(-1, FRAME_SAMPLES)


def converse(kind, frames=USER):
    session = Session(MODEL, SamplingConfig(text_temperature=1.0), seed=4, policy=PolicyConfig(kind=kind))
    played = [session.step(frame) for frame in frames]
    words, events = session.finish()
    told = sorted([*(event for frame in played for event in frame.events), *events], key=lambda event: event.time)
    return session, played, told


def at(events, *kinds):
    return [(event.kind, round(event.time, 2)) for event in events if event.kind in kinds]


INTERRUPTIONS = (K.BACKCHANNEL, K.BARGE_IN, K.TRUNCATED, K.YIELDED, K.FALSE_YIELD, K.RESUMED)


@pytest.fixture(scope="module")
def talks():
    return {kind: converse(kind) for kind in POLICIES}


@pytest.mark.parametrize("kind", POLICIES)
def test_the_users_speech_is_told_at_the_times_of_the_script(talks, kind):
    events = talks[kind][2]
    assert at(events, K.USER_START) == [(K.USER_START, start) for start, _ in SCRIPT]
    assert at(events, K.USER_STOP) == [(K.USER_STOP, stop) for _, stop in SCRIPT]


def test_a_script_through_all_policies(talks):
    until = 2.4 + 0.8 - 0.08  # the frame at whose end the user has spoken for 0.8 s
    assert at(talks[LEARNED][2], *INTERRUPTIONS) == [(K.BACKCHANNEL, 0.96), (K.BARGE_IN, 2.4)]
    assert at(talks[FORCED][2], *INTERRUPTIONS) == [
        (K.BACKCHANNEL, 0.96), (K.BARGE_IN, 2.4), (K.TRUNCATED, round(until, 2)), (K.YIELDED, round(until, 2))]
    # Guarded: silent codes are chosen 0.4 s later, and come out after the acoustic delay.
    silent = until + 0.4 + FRAME_SECONDS * MODEL.config.max_delay
    guarded = talks[GUARDED][2]
    assert at(guarded, *INTERRUPTIONS) == [(K.BACKCHANNEL, 0.96), (K.BARGE_IN, 2.4), (K.YIELDED, pytest.approx(silent)),
                                           (K.RESUMED, 4.24)]
    assert [e.seconds for e in guarded if e.kind is K.YIELDED] == [pytest.approx(silent - 2.4)]


def test_the_model_is_fed_the_same_under_every_policy_until_one_steers_it(talks):
    tokens = {kind: [frame.system_codes.tolist() for frame in talk[1]] for kind, talk in talks.items()}
    assert tokens[FORCED] == tokens[LEARNED]  # forced cuts what is heard, never what is said
    assert tokens[GUARDED][:39] == tokens[LEARNED][:39] and tokens[GUARDED] != tokens[LEARNED]
    assert [frame.index for frame in talks[GUARDED][1]] == list(range(len(USER)))


def test_forced_says_which_frames_were_not_heard(talks):
    session, played, _ = talks[FORCED]
    muted = [frame.index for frame in played if frame.muted]
    assert muted == sorted(session.heard.lost) and muted[0] == 39 and not any(played[n].pcm.any() for n in muted)
    assert [frame.index for frame in played if frame.flush] == [39]
    assert session.heard.heard(1.0, 2.0) and not session.heard.heard(3.2, 3.6)
    assert talks[LEARNED][0].heard.lost == {}


def test_what_the_playback_reports_is_counted_and_told():
    session, _, _ = converse(LEARNED, USER[:3])
    session.not_heard((Piece(1, FRAME_SAMPLES // 2, False), Piece(2, FRAME_SAMPLES, False), Piece(0, 100, True)), truncated=True)
    assert session.heard.lost == {1: 0.5, 2: 1.0}
    events = session.step(USER[3]).events
    assert at(events, K.TRUNCATED) == [(K.TRUNCATED, 0.08)]


@pytest.mark.parametrize("kind", [GUARDED, FORCED])
def test_a_session_stored_in_the_middle_of_a_barge_in_goes_on_alike(tmp_path, kind):
    session = Session(MODEL, seed=4, policy=PolicyConfig(kind=kind))
    for frame in USER[:42]:
        session.step(frame)
    session.save(tmp_path / "s.safetensors")
    twins = [session.clone(), Session.load(MODEL, tmp_path / "s.safetensors")]
    expected = [session.step(frame) for frame in USER[42:]]
    for twin in twins:
        again = [twin.step(frame) for frame in USER[42:]]
        assert all(np.array_equal(a.pcm, b.pcm) and a.events == b.events and a.muted == b.muted
                   for a, b in zip(again, expected, strict=True))
        assert twin.heard == session.heard
