"""Audio files in and out, and the ones that must be refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile

from duplex.audio import pad_to_frames, read_audio, resample, to_mono, write_wav
from duplex.errors import InputError
from duplex.testing import scripted_speech, tone
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE
from duplex.vad import level_db

RATES = [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 44_101, 48_000, 96_000, 192_000]


def sine(rate, seconds=0.5, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


@pytest.mark.parametrize("rate", RATES)
def test_any_rate_becomes_24_khz_without_changing_pitch_level_or_length(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", sine(rate, 1.0), rate)
    pcm = read_audio(tmp_path / "a.wav")
    assert pcm.dtype == np.float32 and pcm.shape == (1, SAMPLE_RATE) and pcm.flags.c_contiguous
    middle = slice(2_000, -2_000)  # the filter rings at the edges
    assert np.abs(pcm[0, middle] - sine(SAMPLE_RATE, 1.0)[middle]).max() < 5e-3


@pytest.mark.parametrize(("name", "options"), [
    ("a.wav", {"subtype": "PCM_U8"}), ("a.wav", {"subtype": "PCM_16"}), ("a.wav", {"subtype": "PCM_24"}),
    ("a.wav", {"subtype": "PCM_32"}), ("a.wav", {"subtype": "FLOAT"}), ("a.wav", {"subtype": "DOUBLE"}),
    ("a.wav", {"subtype": "ULAW"}), ("a.flac", {}), ("a.aiff", {}), ("a.ogg", {"subtype": "VORBIS"}),
    ("a.ogg", {"subtype": "OPUS"}),
])
def test_any_format_and_sample_type(tmp_path, name, options):
    soundfile.write(tmp_path / name, sine(SAMPLE_RATE), SAMPLE_RATE, **options)
    pcm = read_audio(tmp_path / name)
    assert pcm.dtype == np.float32
    assert pcm.shape == (1, SAMPLE_RATE // 2)
    exact = name != "a.ogg" and options.get("subtype") not in ("PCM_U8", "ULAW")
    assert np.abs(pcm[0] - sine(SAMPLE_RATE)).max() < (1e-4 if exact else 0.1)


def test_channels_are_kept_and_mixed_on_demand(tmp_path):
    stereo = np.stack([sine(16_000), np.zeros(8_000)], axis=1)
    soundfile.write(tmp_path / "a.flac", stereo, 16_000)
    pcm = read_audio(tmp_path / "a.flac")
    assert pcm.shape == (2, SAMPLE_RATE // 2)
    assert level_db(pcm[0]) == pytest.approx(-9.0, abs=0.1) and level_db(pcm[1]) < -80
    assert to_mono(pcm).shape == (SAMPLE_RATE // 2,) and to_mono(pcm).dtype == np.float32
    assert level_db(to_mono(pcm)) == pytest.approx(-15.0, abs=0.1)


def test_resampling_keeps_speech_and_removes_what_24_khz_cannot_hold():
    assert level_db(resample(sine(48_000, hertz=11_000).astype(np.float32)[None], 48_000)[0]) > -10
    assert level_db(resample(sine(48_000, hertz=14_000).astype(np.float32)[None], 48_000)[0][500:-500]) < -60


def test_a_wav_written_and_read_is_the_same(tmp_path):
    pcm = np.stack([tone(0.3), scripted_speech([(0.1, 0.2)], 0.3)])
    write_wav(tmp_path / "a.wav", pcm)
    assert np.abs(read_audio(tmp_path / "a.wav") - pcm).max() < 1 / 32_000
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    assert os.listdir(tmp_path) == ["a.wav"]


def test_loud_samples_are_clipped_not_wrapped(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([2.0, -2.0, 1.0], dtype=np.float32))
    assert read_audio(tmp_path / "a.wav")[0] == pytest.approx([1.0, -1.0, 1.0], abs=1e-4)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_wav(tmp_path / "a.wav", tone(0.1))
    before = (tmp_path / "a.wav").read_bytes()

    def break_off(path, *args, **kwargs):
        path.write_bytes(b"RIFF")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", break_off)
    with pytest.raises(InputError, match=r"a\.wav: cannot be written .*No space left"):
        write_wav(tmp_path / "a.wav", tone(0.2))
    assert os.listdir(tmp_path) == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before


def test_nan_is_never_written(tmp_path):
    with pytest.raises(InputError, match="NaN"):
        write_wav(tmp_path / "a.wav", np.array([0.0, np.nan], dtype=np.float32))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("samples", "extra", "frames"), [(0, 0, 0), (1, 0, 1), (FRAME_SAMPLES, 0, 1),
                                                          (FRAME_SAMPLES + 1, 3, 5)])
def test_padding_to_whole_frames(samples, extra, frames):
    padded = pad_to_frames(np.ones(samples, dtype=np.float32), extra)
    assert padded.shape == (frames * FRAME_SAMPLES,) and padded.dtype == np.float32
    assert padded.sum() == samples


def bad_file(kind, path):
    good = path.with_name("good.wav")
    soundfile.write(good, sine(16_000), 16_000)
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0), 16_000)
    elif kind == "text":
        path.write_text("these are not samples\n" * 50)
    elif kind == "header only":
        path.write_bytes(good.read_bytes()[:30])
    elif kind == "truncated":
        path.write_bytes(good.read_bytes()[:-5_000])
    elif kind == "truncated flac":
        soundfile.write(path, sine(16_000, 2.0), 16_000, format="FLAC")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "truncated ogg":
        soundfile.write(path, sine(16_000, 5.0), 16_000, format="OGG", subtype="VORBIS")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind in ("nan", "infinite"):
        samples = sine(16_000)
        samples[100] = np.nan if kind == "nan" else np.inf
        soundfile.write(path, samples, 16_000, subtype="FLOAT")
    elif kind == "folder":
        path.mkdir()
    elif kind == "rate":
        soundfile.write(path, sine(500), 500)
    else:
        assert kind == "missing"


@pytest.mark.parametrize(("kind", "says"), [
    ("missing", "no such file"), ("folder", "not a file"), ("empty", "empty"), ("no samples", "no samples"),
    ("text", "cannot be read as audio"), ("header only", "truncated"), ("truncated", "truncated"),
    ("truncated flac", "truncated|cannot be read as audio"), ("truncated ogg", "truncated"), ("nan", "NaN"),
    ("infinite", "infinite"), ("rate", "500 Hz"),
])
def test_a_bad_file_is_one_line_that_names_it_and_the_mend(tmp_path, kind, says):
    path = tmp_path / "user.wav"
    bad_file(kind, path)
    with pytest.raises(InputError, match=says) as caught:
        read_audio(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and ";" in message and "\n" not in message


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 0])
def test_a_wav_written_to_a_pipe_has_no_length_and_is_read(tmp_path, length):
    soundfile.write(tmp_path / "a.wav", sine(SAMPLE_RATE), SAMPLE_RATE)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    assert data[36:40] == b"data"
    data[40:44] = length.to_bytes(4, "little")
    data[4:8] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    if length:
        assert read_audio(tmp_path / "a.wav").shape == (1, SAMPLE_RATE // 2)
    else:
        with pytest.raises(InputError, match="no samples"):  # libsndfile takes 0 at its word
            read_audio(tmp_path / "a.wav")
