"""Where there is speech in a waveform: silero's detector, as the public scorers use it, or level where it is not installed."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torchaudio.functional

from duplex.audio import pad_to_frames
from duplex.metrics.turntaking import Segment, segments_of
from duplex.units import SAMPLE_RATE
from duplex.vad import activity

RATE = 16_000


@functools.cache
def detector():
    """(model, function) of silero, or None where it is not installed."""
    try:
        from silero_vad import get_speech_timestamps, load_silero_vad
    except ImportError:
        return None
    return load_silero_vad(), get_speech_timestamps


def name() -> str:
    """What `speech` is found with, for the record of a result."""
    return "silero" if detector() else "level (pip install silero-vad for the detector of the public scorers)"


def speech(pcm: np.ndarray) -> list[Segment]:
    """(start, end) in seconds of speech in float32 [S] at 24 kHz, with silero's default settings."""
    if not np.any(np.abs(pcm) > 1e-4):
        return []
    found = detector()
    if found is None:
        return segments_of(activity(pad_to_frames(pcm)))
    model, timestamps = found
    sound = torchaudio.functional.resample(torch.from_numpy(np.ascontiguousarray(pcm)), SAMPLE_RATE, RATE)
    return [(s["start"] / RATE, s["end"] / RATE) for s in timestamps(sound, model, sampling_rate=RATE)]
