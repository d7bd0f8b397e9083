"""The conversions between seconds, samples and frames."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from duplex import units


def test_one_frame_is_80_ms():
    assert units.FRAME_SAMPLES == 0.08 * units.SAMPLE_RATE
    assert units.FRAME_RATE == 12.5
    assert units.FRAME_SECONDS == 0.08


@given(st.integers(0, 10**7))
def test_frame_starts_survive_the_round_trip_through_seconds(frame):
    seconds = units.frames_to_seconds(frame)
    assert units.seconds_to_frame(seconds) == frame
    assert units.seconds_to_frames(seconds) == frame


def test_times_written_as_decimals_fall_on_the_frame_that_was_meant():
    # 0.24 / 0.08 is 2.9999999999999996 in binary.
    for frame in range(1000):
        assert units.seconds_to_frame(round(0.08 * frame, 2)) == frame


@given(st.integers(0, 10**9))
def test_samples_are_covered_by_frames_without_a_spare_one(samples):
    frames = units.samples_to_frames(samples)
    assert units.frames_to_samples(frames) >= samples > units.frames_to_samples(frames - 1)


def test_a_moment_past_the_edge_needs_another_frame():
    assert units.seconds_to_frames(0.081) == 2
    assert units.seconds_to_frame(0.159) == 1
    assert units.seconds_to_samples(0.5) == 12_000
    assert units.samples_to_seconds(12_000) == 0.5
