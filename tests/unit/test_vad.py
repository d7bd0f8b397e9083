"""The energy detector: levels, hysteresis and the noise floor."""

from __future__ import annotations

import json

import numpy as np
import pytest

from duplex.testing import activity_of, scripted_speech
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS
from duplex.vad import EnergyVad, VadConfig, activity, level_db


def test_levels():
    assert level_db(np.ones(FRAME_SAMPLES, dtype=np.float32)) == pytest.approx(0.0)
    assert level_db(np.zeros(FRAME_SAMPLES, dtype=np.float32)) == -120.0
    assert level_db(np.full(FRAME_SAMPLES, 0.01, dtype=np.float32)) == pytest.approx(-40.0, abs=1e-3)


def test_hysteresis_keeps_the_state_between_the_two_levels():
    vad = EnergyVad(VadConfig(on_db=-40, off_db=-50, floor_rise_db=0.0))
    levels = [-60, -45, -39, -45, -49, -51, -45, -41, -40]
    assert [vad.push_level(level) for level in levels] == [
        False, False, True, True, True, False, False, False, True]


def test_scripted_speech_is_heard_where_it_is():
    active = activity(scripted_speech([(0.8, 2.4), (4.0, 4.8)], seconds=8.0))
    assert active.tolist() == activity_of([(10, 30), (50, 60)], 100).tolist()


def test_steady_noise_is_learnt_and_speech_above_it_is_still_heard():
    rng = np.random.default_rng(0)
    frames = 250
    noise = (0.012 * rng.standard_normal(frames * FRAME_SAMPLES)).astype(np.float32)  # -38 dB, above on_db
    speech = scripted_speech([(16.0, 17.6)], seconds=frames * FRAME_SECONDS, amplitude=0.2)
    active = activity(noise + speech)
    assert active[:5].all()  # at first nobody can know
    assert active[150:].tolist() == activity_of([(200, 220)], frames)[150:].tolist()


def test_a_detector_cut_and_continued_gives_the_same():
    levels = np.random.default_rng(0).uniform(-70, -20, 60)
    vad = EnergyVad()
    first = [vad.push_level(level) for level in levels[:30]]
    restored = EnergyVad.from_dict(json.loads(json.dumps(vad.to_dict())))
    rest = [vad.push_level(level) for level in levels[30:]]
    assert [restored.push_level(level) for level in levels[30:]] == rest
    assert {True, False} == set(first + rest)
