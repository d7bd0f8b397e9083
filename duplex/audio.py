"""Waveforms in and out of files: any wav, flac, ogg or mp3 becomes float32 [C, S] at 24 kHz, and back.

Files are read and written with soundfile; torchaudio only resamples. Whatever cannot be used is an
`InputError` that names the file. A file is written under a temporary name and renamed, so no reader ever sees
half of it.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import torch

from duplex.errors import InputError
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE, samples_to_frames

MIN_RATE, MAX_RATE = 1_000, 768_000
# The resampling filter has a row for every output phase, so that 44,101 -> 24,000 Hz would take gigabytes.
# Ratios are rounded to terms of this size, which changes the pitch by less than 0.003 %.
_MAX_PHASES = 1_000


def read_audio(path: str | Path) -> np.ndarray:
    """Reads an audio file of any rate, sample type and number of channels as float32 [C, S] at 24 kHz.

    Integer samples are scaled to [-1, 1). Raises InputError when the file is missing, empty, truncated, not
    audio or holds NaN or infinite samples.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise InputError(f"{path}: is not a file; name a wav, flac or ogg file")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes); record or copy it again")
        _refuse_truncated(path)
        with soundfile.SoundFile(path) as file:
            rate, announced = file.samplerate, file.frames
            samples_SC = file.read(dtype="float32", always_2d=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason}); check its permissions") from None
    except soundfile.LibsndfileError as error:
        reason = str(error.error_string).strip().rstrip(".").splitlines()[0]
        raise InputError(
            f"{path}: cannot be read as audio ({reason}); convert it to wav, flac or ogg") from None
    if len(samples_SC) == 0:
        raise InputError(f"{path}: holds no samples; record or copy it again")
    if len(samples_SC) < announced:
        raise InputError(
            f"{path}: truncated ({len(samples_SC)} of {announced} samples); record or copy it again")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise InputError(f"{path}: its sample rate of {rate} Hz is outside {MIN_RATE}..{MAX_RATE}; "
                         f"convert it to {SAMPLE_RATE} Hz")
    if not np.isfinite(samples_SC).all():
        raise InputError(f"{path}: holds NaN or infinite samples; export it again as 16-bit PCM")
    return resample(np.ascontiguousarray(samples_SC.T), rate)


def _refuse_truncated(path: Path) -> None:
    """Raises InputError for a RIFF or Ogg file that ends too early, which libsndfile reads without a word."""
    with path.open("rb") as file:
        head = file.read(12)
        size = file.seek(0, os.SEEK_END)
        if head[:4] == b"OggS":
            if not _ogg_is_closed(file, size):
                raise InputError(f"{path}: truncated (its last Ogg page is missing); record or copy it again")
            return
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return
        position = 12
        while position + 8 <= size:
            file.seek(position)
            name, length = file.read(4), int.from_bytes(file.read(4), "little")
            if name == b"data":
                # Writers to a pipe cannot go back to fill the length in: they leave 0 or the largest number.
                known = length not in (0, 0xFFFFFFFF) and length < 0x7FFFF000
                if known and position + 8 + length > size:
                    there = size - position - 8
                    raise InputError(f"{path}: truncated ({there} of {length} bytes of samples); "
                                     "record or copy it again")
                return
            position += 8 + length + length % 2
        raise InputError(f"{path}: truncated (it ends before its samples begin); record or copy it again")


def _ogg_is_closed(file, size: int) -> bool:
    """Does the last page of an Ogg file carry the end-of-stream flag and all of its bytes?"""
    file.seek(max(0, size - 65_536))  # a page is at most 65,307 bytes
    tail = file.read()
    start = tail.rfind(b"OggS")
    if start < 0 or len(tail) < start + 27:
        return False
    flags, segments = tail[start + 5], tail[start + 26]
    lengths = tail[start + 27 : start + 27 + segments]
    whole = len(lengths) == segments and start + 27 + segments + sum(lengths) <= len(tail)
    return whole and bool(flags & 4)


def resample(pcm_CS: np.ndarray, rate: int) -> np.ndarray:
    """Resamples float32 [C, S] from `rate` Hz to 24 kHz; the same array comes back when that is its rate."""
    if rate == SAMPLE_RATE:
        return pcm_CS
    ratio = Fraction(SAMPLE_RATE, rate).limit_denominator(_MAX_PHASES)
    if ratio.numerator > _MAX_PHASES:
        ratio = 1 / Fraction(rate, SAMPLE_RATE).limit_denominator(_MAX_PHASES)
    # A sharp low-pass: 64 zero crossings keep speech up to 0.98 of the Nyquist rate.
    from torchaudio import functional  # here: not every program resamples, and each would wait for it at its start

    resampled = functional.resample(
        torch.from_numpy(pcm_CS), ratio.denominator, ratio.numerator, lowpass_filter_width=64, rolloff=0.98)
    length = math.ceil(pcm_CS.shape[1] * SAMPLE_RATE / rate)
    return np.ascontiguousarray(resampled.numpy()[:, :length])


def to_mono(pcm_CS: np.ndarray) -> np.ndarray:
    """Mean of the channels: float32 [C, S] -> [S]."""
    return pcm_CS.mean(axis=0, dtype=np.float32)


def pad_to_frames(pcm_S: np.ndarray, extra_frames: int = 0) -> np.ndarray:
    """Zero-pads [S] at its end to whole frames plus `extra_frames`; the result is [T * 1920]."""
    length = (samples_to_frames(len(pcm_S)) + extra_frames) * FRAME_SAMPLES
    return np.pad(pcm_S, (0, length - len(pcm_S)))


def write_wav(path: str | Path, pcm_CS: np.ndarray, rate: int = SAMPLE_RATE) -> None:
    """Writes [S] or [C, S] float samples in [-1, 1] as a 16-bit wav file; louder samples are clipped.

    The file appears under its name only when it is complete.
    """
    path = Path(path)
    pcm_CS = np.atleast_2d(np.asarray(pcm_CS, dtype=np.float32))
    if not np.isfinite(pcm_CS).all():
        raise InputError(f"{path}: not written, because the samples hold NaN or infinite values")
    samples_SC = np.round(np.clip(pcm_CS.T, -1.0, 1.0) * 32_767).astype(np.int16)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        soundfile.write(temporary, samples_SC, rate, format="WAV", subtype="PCM_16")
        temporary.replace(path)
    except (OSError, soundfile.LibsndfileError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be written ({reason}); check the folder") from None
    finally:
        temporary.unlink(missing_ok=True)
