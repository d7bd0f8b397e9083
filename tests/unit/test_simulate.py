"""Offline conversations: with a recording, and of two sessions with each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from duplex.session import Session
from duplex.simulate import self_dialogue, simulate
from duplex.testing import fake_loaded_model, scripted_speech
from duplex.turns import EventKind
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS

MODEL = fake_loaded_model()


def test_a_recording_is_played_frame_by_frame():
    pcm = scripted_speech([(0.2, 0.9)], 1.25)  # 15.6 frames
    seen = []
    dialogue = simulate(Session(MODEL, seed=4), pcm, on_frame=seen.append)
    session = Session(MODEL, seed=4)
    frames = [session.step(frame) for frame in np.pad(pcm, (0, 16 * FRAME_SAMPLES - len(pcm))).reshape(16, -1)]
    words, events = session.finish()
    assert [frame.index for frame in seen] == list(range(16)) == [frame.index for frame in dialogue.frames]
    assert np.array_equal(dialogue.system_pcm, np.concatenate([frame.pcm for frame in frames]))
    assert np.array_equal(dialogue.user_pcm[: len(pcm)], pcm) and not dialogue.user_pcm[len(pcm) :].any()
    assert dialogue.words == (*(word for frame in frames for word in frame.words), *words)
    assert sorted(map(repr, dialogue.events)) == sorted(
        map(repr, [*(event for frame in frames for event in frame.events), *events]))
    assert [event.time for event in dialogue.events] == sorted(event.time for event in dialogue.events)
    assert dialogue.seconds == pytest.approx(1.28)
    assert np.array_equal(dialogue.stereo, np.stack([dialogue.system_pcm, dialogue.user_pcm]))
    assert dialogue.summary.user_speech_seconds == pytest.approx(0.8)
    assert dialogue.step_seconds == ()


def test_time_is_what_the_clock_says():
    ticks = itertools.count()
    dialogue = simulate(Session(MODEL), scripted_speech([], 0.4), clock=lambda: float(next(ticks)))
    assert dialogue.step_seconds == (1.0,) * 5


def test_no_sound_at_all_gives_an_empty_conversation():
    dialogue = simulate(Session(MODEL), np.zeros(0, np.float32))
    assert (dialogue.seconds, dialogue.frames, dialogue.words, dialogue.events) == (0.0, (), (), ())
    assert dialogue.stereo.shape == (2, 0)


def test_two_sessions_hear_what_the_other_said_one_frame_before():
    dialogue = self_dialogue(Session(MODEL, seed=1), Session(MODEL, seed=2), 20)
    left, right = Session(MODEL, seed=1), Session(MODEL, seed=2)
    said, answered, heard = np.zeros(FRAME_SAMPLES, np.float32), np.zeros(FRAME_SAMPLES, np.float32), []
    for _ in range(20):
        heard.append(answered)
        a, b = left.step(answered), right.step(said)
        said, answered = a.pcm, b.pcm
    assert np.array_equal(dialogue.user_pcm, np.concatenate(heard))
    assert np.array_equal(dialogue.system_pcm[-FRAME_SAMPLES:], said)
    assert not dialogue.user_pcm[: 2 * FRAME_SAMPLES].any() and dialogue.user_pcm.any()
    assert {event.kind for event in dialogue.events} & {EventKind.USER_START, EventKind.OVERLAP_START}


def test_the_words_of_the_partner_are_timed_as_they_are_heard():
    heard = self_dialogue(Session(MODEL, seed=1), Session(MODEL, seed=2), 20).user_words
    mirrored = self_dialogue(Session(MODEL, seed=2), Session(MODEL, seed=1), 20).words
    assert [word.text for word in heard] == [word.text for word in mirrored] != []
    assert [word.start for word in heard] == pytest.approx([word.start + FRAME_SECONDS for word in mirrored])
