"""The live loop on a simulated clock, its recording, its view, and what the command says when something is missing."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import soundfile

from duplex.audio import write_wav
from duplex.playout import PlayoutConfig
from duplex.policy import FORCED, PolicyConfig
from duplex.session import Session
from duplex.testing import fake_loaded_model, scripted_speech
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE
from infer import cli, live, page
from infer.device import ports
from infer.device.echo import EchoCanceller, speakers_are_open
from infer.device.loop import LiveLoop
from infer.device.record import Recorder
from infer.report import About

MODEL = fake_loaded_model()
BLOCK = 480  # 20 ms
USER = scripted_speech([(0.5, 2.6)], 4.0, 300.0)


class Machine:
    """A sound card and a clock. `run` lets time pass; the model takes `step` seconds for a frame."""

    def __init__(self, session, step=0.0, on_frame=None, canceller=None):
        self.now = 0.0
        self.loop = LiveLoop(session, lambda: self.now, canceller=canceller, on_frame=on_frame)
        self.speaker, self.microphone, self.captured, self.step = [], USER, 0, step
        inner = session.step

        def slow(pcm):
            self.now += self.step
            return inner(pcm)

        session.step = slow

    def run(self, seconds, connected=True):
        until = self.now + seconds
        while self.now < until - 1e-9:
            before = self.now
            self.now += BLOCK / SAMPLE_RATE
            if connected:
                self.blocks(1)
            self.loop.work()
            for _ in range(int((self.now - before) * SAMPLE_RATE / BLOCK + 1e-6) - 1):
                self.blocks(1) if connected else None  # the card went on while the model was thinking

    def blocks(self, count):
        for _ in range(count):
            self.loop.capture(np.resize(self.microphone, self.captured + BLOCK)[self.captured :])
            self.captured += BLOCK
            self.speaker.append(self.loop.playout(BLOCK))


def test_what_the_speaker_gives_is_what_the_session_says_after_the_playout_delay():
    machine = Machine(Session(MODEL, seed=3))
    machine.run(4.0)
    plain = Session(MODEL, seed=3)
    said = np.concatenate([plain.step(frame).pcm for frame in USER.reshape(-1, FRAME_SAMPLES)])
    heard = np.concatenate(machine.speaker)
    first = int(np.flatnonzero(heard)[0]) - int(np.flatnonzero(said)[0])
    assert 0.08 * SAMPLE_RATE < first < 0.18 * SAMPLE_RATE
    assert np.allclose(heard[first:][: 3 * SAMPLE_RATE], said[: 3 * SAMPLE_RATE], atol=1e-4)
    counters = machine.loop.counters
    assert counters.dropped_frames == counters.dropped_silent == counters.absent_frames == counters.late_frames == 0
    assert machine.loop.playout_buffer.counters.underrun == 0
    assert len(machine.loop.state.step_ms) == 50 and machine.loop.state.seconds == pytest.approx(4.0)


def test_a_microphone_that_goes_and_comes_back():
    machine = Machine(Session(MODEL, seed=3))
    machine.run(1.0)
    machine.run(3.0, connected=False)
    fed = machine.loop.counters.absent_frames
    assert 30 <= fed <= 38  # 3 s less the half second after which it is taken for gone
    assert machine.loop.session.index == pytest.approx(12 + fed, abs=1)
    machine.loop.device_returned()
    machine.run(1.0)
    assert machine.loop.session.index == pytest.approx(24 + fed, abs=2)
    assert np.concatenate(machine.speaker[-20:]).any() and machine.loop.playout_buffer.delay_ms < 130


def test_a_machine_that_is_too_slow_drops_and_counts_and_never_falls_behind():
    machine = Machine(Session(MODEL, seed=3), step=0.12)
    machine.run(6.0)
    counters = machine.loop.counters
    assert counters.late_frames > 20 and counters.dropped_frames + counters.dropped_silent > 10
    assert len(machine.loop.backlog) <= 5 and machine.loop.state.percentiles()[0] == pytest.approx(120)


def test_a_flush_is_heard_at_once_and_the_recording_says_what_was_heard(tmp_path):
    recorder = Recorder(tmp_path / "out")
    session = Session(MODEL, seed=4, policy=PolicyConfig(kind=FORCED))
    machine = Machine(session, on_frame=recorder.add)
    machine.run(2.6)
    assert machine.loop.playout_buffer.counters.flushed > 0
    heard = np.concatenate(machine.speaker)
    cut = int((0.5 + 0.8 + 0.08 + 0.1) * SAMPLE_RATE)
    assert np.abs(heard[cut : cut + SAMPLE_RATE // 2]).max() < 1e-3 < np.abs(heard[cut - SAMPLE_RATE // 2 : cut - 4_800]).max()
    words, events = session.finish()
    paths = recorder.close(About("fake", "microphone", {}), words, events, session.heard, ())
    assert [path.name for path in paths] == ["conversation.wav", "events.jsonl", "timeline.png", "transcript.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    sound, _ = soundfile.read(paths[0])
    assert len(sound) == 32 * FRAME_SAMPLES and np.abs(sound[:, 1] - USER[: len(sound)]).max() < 1e-3
    rows = [json.loads(line) for line in paths[1].read_text().splitlines()]
    assert "truncated" in [row["kind"] for row in rows]
    assert any(row.get("heard") is False for row in rows if row["kind"] == "system_word")


def test_nothing_but_zeros_is_noticed_until_the_first_sound():
    machine = Machine(Session(MODEL))
    machine.microphone = np.zeros(SAMPLE_RATE, np.float32)
    machine.run(2.0)
    assert machine.loop.state.zeros == 25
    machine.microphone = USER + 0.01
    machine.run(0.2)
    assert machine.loop.state.zeros == -1


def test_the_view_shows_words_floor_meters_interruptions_latency_and_drops():
    rich = pytest.importorskip("rich.console", reason="pip install -e '.[live]'")
    from infer.device.view import ViewState, render

    state = ViewState("duplex live", notice="a notice")
    machine = Machine(Session(MODEL, seed=4, policy=PolicyConfig(kind=FORCED)), on_frame=lambda u, f, lost: state.add(f))
    machine.run(2.4)
    console = rich.Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(state, machine.loop))
    text = console.export_text()
    for part in ("duplex live", "a notice", "user", "system", "dB", "floor: user", "the user barges in", "playback is cut",
                 "the system yields", "p50", "p95", "p99 0 ms of 80", "underrun 0 ms", "0 frames, 0 silent, 0 late"):
        assert part in text, part
    assert max(len(line) for line in text.splitlines()) <= 110


def test_echo_cancellation_removes_the_echo_and_keeps_the_user():
    pytest.importorskip("livekit", reason="pip install -e '.[live]'")
    far = scripted_speech([(0.0, 8.0)], 8.0, 210.0) + np.random.default_rng(0).normal(0, 0.01, 8 * SAMPLE_RATE).astype(np.float32)
    echo = np.concatenate([np.zeros(2_880, np.float32), 0.3 * far[:-2_880]])
    canceller, out = EchoCanceller(), []
    for start in range(0, len(far), FRAME_SAMPLES):
        canceller.far(far[start : start + FRAME_SAMPLES])
        out.append(canceller.near(echo[start : start + FRAME_SAMPLES]))
    late = slice(4 * SAMPLE_RATE, None)
    assert np.mean(np.concatenate(out)[late] ** 2) < 0.01 * np.mean(echo[late] ** 2)  # 20 dB at least
    assert canceller.far_missing == 0
    alone = EchoCanceller()
    kept = np.concatenate([alone.near(frame) for frame in USER.reshape(-1, FRAME_SAMPLES)])
    assert np.mean(kept**2) > 0.5 * np.mean(USER**2) and alone.far_missing == len(USER)


@pytest.mark.parametrize(("name", "is_open"), [
    ("Built-in Speakers", True), ("WH-1000XM4 Headphones", False), ("USB Headset", False)])
def test_speakers_are_open_unless_their_name_says_otherwise(name, is_open):
    assert speakers_are_open(name) is is_open


class FakeAudio:
    """As much of sounddevice as is used, with devices and failures to order."""

    class PortAudioError(Exception):
        pass

    def __init__(self, devices, failure=None, rates=(24_000,)):
        self.devices, self.failure, self.rates = devices, failure, rates
        self.default = type("Default", (), {"device": (0, 1)})

    def query_devices(self, number=None):
        return self.devices if number is None else self.devices[number]

    def InputStream(self, samplerate, **options):  # noqa: N802
        if self.failure:
            raise self.PortAudioError(self.failure)
        if samplerate not in self.rates:
            raise self.PortAudioError("Invalid sample rate [PaErrorCode -9997]")
        return type("Stream", (), {"samplerate": samplerate, "active": True, "start": lambda s: None, "abort": lambda s: None,
                                   "close": lambda s: None, "callback": staticmethod(options["callback"])})()

    OutputStream = InputStream


def device(name, inputs, outputs):
    return {"name": name, "max_input_channels": inputs, "max_output_channels": outputs, "default_samplerate": 48_000.0}


BOTH = [device("Mic", 1, 0), device("Speaker", 0, 2), device("Mic two", 1, 0)]


@pytest.mark.parametrize(("devices", "failure", "rates", "arguments", "says"), [
    ([], None, (24_000,), "", "no sound device found"), ([device("Speaker", 0, 2)], None, (24_000,), "", "no microphone found"),
    (BOTH, None, (24_000,), "--input drum", "--input drum: no such device"),
    (BOTH, None, (24_000,), "--output 0", "--output 0: no such"),
    (BOTH, None, (24_000,), "--input mic", None), (BOTH, None, (24_000,), "--input i", "--input i: means 2 devices"),
    (BOTH, None, (8_000,), "", "Mic: takes neither 24000 nor 48000"),
    (BOTH, "Device unavailable [PaErrorCode -9985]", (), "", "is in use or may not be used"),
    (BOTH, "Unanticipated host error [PaErrorCode -9999]", (), "", "check that it is connected"),
])
def test_a_device_that_cannot_be_used_is_one_line(monkeypatch, capsys, devices, failure, rates, arguments, says):
    monkeypatch.setattr(ports, "portaudio", lambda: FakeAudio(devices, failure, rates))
    monkeypatch.setattr(live, "load_model", lambda *a, **k: sys.exit(99))
    if says is None:  # a whole name wins over parts of others: goes on to load the model
        with pytest.raises(SystemExit):
            live.main([*arguments.split(), "--echo-cancel", "off"])
        return
    assert live.main(arguments.split()) == cli.USER_ERROR
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and says in err


def test_the_devices_are_listed(monkeypatch, capsys):
    monkeypatch.setattr(ports, "portaudio", lambda: FakeAudio(BOTH))
    assert live.main(["--list-devices"]) == 0
    out = capsys.readouterr().out
    assert "<     0    1   0   48000  Mic" in out and " >    1    0   2   48000  Speaker" in out


def test_a_device_at_another_rate_is_resampled_both_ways(monkeypatch):
    pytest.importorskip("soxr", reason="pip install -e '.[live]'")
    monkeypatch.setattr(ports, "portaudio", lambda: FakeAudio(BOTH, rates=(48_000,)))
    got, wave = [], np.sin(2 * np.pi * 440 * np.arange(96_000) / 48_000).astype(np.float32)
    sent = iter(np.sin(2 * np.pi * 440 * np.arange(48_000 * 2) / 24_000).astype(np.float32).reshape(-1, 480))
    both = ports.SoundPorts(None, None, got.append, lambda n: next(sent), lambda: 0.0)
    both.open()
    assert both.rates == (48_000, 48_000) and both.names == ("Mic", "Speaker") and both.alive
    captured, played = (stream.callback for stream in both._streams)
    for start in range(0, 96_000, 960):
        captured(wave[start : start + 960, None], 960, None, None)
    low = np.concatenate(got)
    assert abs(len(low) - 48_000) < 1_500
    assert np.argmax(np.abs(np.fft.rfft(low[4_000:28_000]))) == 440
    data = np.zeros((960, 1), np.float32)
    out = []
    for _ in range(90):
        played(data, 960, None, None)
        out.append(data[:, 0].copy())
    assert np.argmax(np.abs(np.fft.rfft(np.concatenate(out)[9_600:57_600]))) == 440


def test_missing_packages_say_how_to_get_them(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert live.main([]) == cli.USER_ERROR and "pip install -e '.[live]'" in capsys.readouterr().err


def test_a_page_puts_conversations_side_by_side(tmp_path, capsys):
    for name, kind in (("a", "learned"), ("b", "forced")):
        recorder = Recorder(tmp_path / name)
        session = Session(MODEL, seed=4, policy=PolicyConfig(kind=kind))
        Machine(session, on_frame=recorder.add).run(2.4)
        words, events = session.finish()
        recorder.close(About("<fake>", "microphone", {"policy": kind}), words, events, session.heard, ())
    assert page.main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "x" / "page.html")]) == 0
    text = (tmp_path / "x" / "page.html").read_text()
    assert text.count("<section>") == text.count("<svg") == 2 and 'src="../a/conversation.wav"' in text
    assert "&lt;fake&gt;" in text and "<fake>" not in text and "barge-in" in text and "<s>" in text and "playback cut" in text
    write_wav(tmp_path / "conversation.wav", USER)
    assert page.main([str(tmp_path), "--out", str(tmp_path / "y.html")]) == cli.USER_ERROR
    assert "cannot be read" in capsys.readouterr().err and not (tmp_path / "y.html").exists()
    (tmp_path / "events.jsonl").write_text('{"kind": "nothing"}\n')
    assert page.main([str(tmp_path), "--out", str(tmp_path / "y.html")]) == cli.USER_ERROR
    assert "no finished conversation" in capsys.readouterr().err


def test_the_playout_target_lies_where_the_option_says():
    assert PlayoutConfig(wait_ms=60).wait_ms + 40 == live.parser().parse_args([]).playout_ms
