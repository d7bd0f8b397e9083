"""The time grid of the product, and the only conversions between seconds, samples and frames.

One frame is 80 ms: 1,920 samples at 24 kHz. All other files take these names from here, so that a number
of seconds can never be passed where a number of frames is meant without a call that says so.
"""

from __future__ import annotations

import math

SAMPLE_RATE = 24_000
"""Samples per second of every waveform inside the product."""

FRAME_SAMPLES = 1_920
"""Samples in one frame."""

FRAME_RATE = SAMPLE_RATE / FRAME_SAMPLES
"""Frames per second: 12.5."""

FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE
"""Seconds in one frame: 0.08."""

# Times such as 0.24 s are not exact in binary: 0.24 / 0.08 is 2.9999999999999996. A thousandth of a frame
# (80 microseconds, two samples) of tolerance puts them on the frame that was meant.
_TOLERANCE = 1e-3


def frames_to_seconds(frames: float) -> float:
    """Time at which frame number `frames` begins, in seconds."""
    return frames * FRAME_SAMPLES / SAMPLE_RATE


def seconds_to_frame(seconds: float) -> int:
    """Number of the frame that contains the instant `seconds` (floor)."""
    return math.floor(seconds * SAMPLE_RATE / FRAME_SAMPLES + _TOLERANCE)


def seconds_to_frames(seconds: float) -> int:
    """Number of whole frames that cover a span of `seconds` (ceil)."""
    return math.ceil(seconds * SAMPLE_RATE / FRAME_SAMPLES - _TOLERANCE)


def samples_to_frames(samples: int) -> int:
    """Number of whole frames that cover `samples` samples (ceil)."""
    return -(-samples // FRAME_SAMPLES)


def frames_to_samples(frames: int) -> int:
    """Number of samples in `frames` frames."""
    return frames * FRAME_SAMPLES


def samples_to_seconds(samples: int) -> float:
    """Duration of `samples` samples in seconds."""
    return samples / SAMPLE_RATE


def seconds_to_samples(seconds: float) -> int:
    """Number of samples nearest to a span of `seconds`."""
    return round(seconds * SAMPLE_RATE)
