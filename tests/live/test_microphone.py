"""`infer.live` over a real PulseAudio server: a wav into the microphone, an answer out of the speaker, a server that dies."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pulse import Pulse, skip_without_pulse

import duplex
from duplex.audio import read_audio, to_mono, write_wav

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.live


@pytest.fixture
def pulse(tmp_path):
    skip_without_pulse()
    pytest.importorskip("sounddevice", reason="pip install -e '.[live]'")
    server = Pulse(tmp_path)
    server.start(record=tmp_path / "speaker.raw")
    yield server
    server.stop()


def live(pulse, *arguments):
    return subprocess.Popen([sys.executable, "-u", "-m", "infer.live", "--input", "pulse", "--output", "pulse", "--plain",
                             *arguments], cwd=ROOT, env=pulse.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_sound(pulse, process):
    """Until the program has opened the microphone."""
    deadline = time.monotonic() + 90
    while True:
        listed = subprocess.run(["pactl", "list", "short", "source-outputs"], env=pulse.env, capture_output=True, text=True)
        if len(listed.stdout.splitlines()) >= 3:  # the two that keep the monitors awake, and this one
            return
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.3)


def test_a_wav_into_the_microphone_becomes_an_answer_from_the_speaker(pulse, tmp_path):
    pytest.importorskip("livekit", reason="pip install -e '.[live]'")
    assets = Path(duplex.__file__).parent / "assets" / "demo"
    greeting = to_mono(read_audio(assets / "user.wav"))[: 2 * 24_000]
    write_wav(tmp_path / "greeting.wav", greeting)
    process = live(pulse, "--seconds", "8", "--record", str(tmp_path / "out"))
    wait_for_sound(pulse, process)  # opened for a moment to try it ...
    time.sleep(4)  # ... and then for good, when the model is there
    wait_for_sound(pulse, process)
    player = pulse.play(tmp_path / "greeting.wav")
    out, err = process.communicate(timeout=120)
    player.wait(timeout=20)
    assert process.returncode == 0, err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "conversation.wav", "events.jsonl", "timeline.png", "transcript.md"]
    sound, rate = soundfile.read(tmp_path / "out" / "conversation.wav")
    assert rate == 24_000 and sound.shape[1] == 2 and len(sound) >= 8 * 24_000 - 1920
    events = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    kinds = [event["kind"] for event in events]
    asked = next(event["time"] for event in events if event["kind"] == "user_start")
    answered = next(event["time"] for event in events if event["kind"] == "system_start" and event["time"] > asked)
    assert answered - asked < 6 and "system_word" in kinds
    # What the microphone took is the greeting, and what the speaker gave is what the recording says was heard.
    heard = sound[:, 1].astype(np.float32)
    assert np.sqrt((heard**2).mean()) > 0.2 * np.sqrt((greeting**2).mean() * len(greeting) / len(heard))
    speaker = np.frombuffer((tmp_path / "speaker.raw").read_bytes(), np.int16) / 32_768
    assert likeness(speaker, sound[:, 0]) > 0.6


def likeness(long, short):
    """Greatest correlation of the loudness of two sounds, in steps of 20 ms, over all shifts."""
    a, b = (np.sqrt((x[: len(x) // 480 * 480].reshape(-1, 480) ** 2).mean(1)) for x in (long, short))
    a = np.pad(a, len(b))
    scores = [np.dot(a[n : n + len(b)], b) / max(np.linalg.norm(a[n : n + len(b)]) * np.linalg.norm(b), 1e-9)
              for n in range(len(a) - len(b))]
    return max(scores)


def test_a_device_that_goes_and_comes_back_is_said_and_the_conversation_goes_on(pulse, tmp_path):
    process = live(pulse, "--seconds", "13", "--echo-cancel", "off", "--record", str(tmp_path / "out"))
    wait_for_sound(pulse, process)
    time.sleep(5)
    pulse.stop()
    time.sleep(2)
    pulse.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "sound device lost" in out and "sound device is back" in out, out + err
    assert float(out.split("without microphone ")[1].split(" s")[0]) >= 0.5
    sound, _ = soundfile.read(tmp_path / "out" / "conversation.wav")
    assert len(sound) >= 12 * 24_000  # the model was fed all the time
