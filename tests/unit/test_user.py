"""Scripted users: lines at the exact times that the script says, whatever frames they fall between."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from duplex.audio import write_wav
from duplex.errors import ConfigError, InputError
from duplex.testing import scripted_speech
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE
from infer import voice
from infer.user import Line, RecordedUser, ScriptedUser, read_script, words_of
from infer.voice import LEVEL, available, speak, trimmed

CLIP = scripted_speech([(0.0, 1.0)], 1.0)
SYSTEM = {"speaks": scripted_speech([(0.0, 0.08)], 0.08, 300.0, 0.2), "silent": np.zeros(FRAME_SAMPLES, np.float32)}


def hold(user, spans, seconds):
    """Lets a user talk to a system that speaks in `spans` of seconds; what the user said, float32 [S]."""
    said, last = [], SYSTEM["silent"]
    for frame in range(round(seconds / 0.08)):
        said.append(user.speak(last))
        here = any(start <= frame * 0.08 + 1e-9 < stop for start, stop in spans)
        last = SYSTEM["speaks" if here else "silent"]
    return np.concatenate(said)


def line(trigger, seconds, **more):
    return Line(CLIP, trigger, trigger, seconds, **more)


def test_a_line_into_the_answer_is_said_to_the_sample():
    user = ScriptedUser((line("at", 0.5), line("into_answer", 2.0)))
    said = hold(user, [(2.08, 6.0)], 8.0)
    assert [(s.start, s.end) for s in user.said] == [(0.5, 1.5), (pytest.approx(4.08), pytest.approx(5.08))]
    expected = np.zeros(len(said), np.float32)
    for start in (0.5, 4.08):
        first = round(start * SAMPLE_RATE)
        expected[first : first + SAMPLE_RATE] = CLIP
    assert np.array_equal(said, expected)


def test_a_line_after_the_answer_waits_for_its_end():
    user = ScriptedUser((line("at", 0.0), line("after_answer", 1.0), line("pause", 0.25)))
    hold(user, [(1.6, 3.2), (3.36, 4.0)], 9.0)  # the short silence between the two is no end
    assert [s.start for s in user.said] == pytest.approx([0.0, 5.0, 6.25])


def test_an_answer_that_never_comes_is_waited_for_no_longer_than_patience():
    user = ScriptedUser((line("at", 0.0), line("into_answer", 1.0, patience=2.0)), tail=1.0)
    hold(user, [], 3.2)
    assert [s.start for s in user.said] == pytest.approx([0.0, 3.04], abs=0.08) and not user.over
    hold(user, [], 2.0)
    assert user.over


def test_lines_never_overlap_and_a_late_time_is_now():
    user = ScriptedUser((line("at", 0.5), line("at", 0.6), line("into_answer", 0.0)))
    said = hold(user, [(0.0, 8.0)], 8.0)
    starts = [s.start for s in user.said]
    assert starts[:2] == pytest.approx([0.5, 1.52], abs=0.03) and len(starts) == 3
    assert all(b >= a + 1.0 for a, b in zip(starts, starts[1:], strict=False)) and np.abs(said).max() <= np.abs(CLIP).max()


def test_a_recorded_user_says_the_recording():
    user = RecordedUser(CLIP)
    said = hold(user, [], 2.0)
    assert np.array_equal(said[: len(CLIP)], CLIP) and not said[len(CLIP) :].any() and user.over and user.said == ()


def test_words_are_spread_over_the_line():
    user = ScriptedUser((Line(CLIP, "wait please stop now", "at", 1.0),))
    hold(user, [], 3.0)
    assert [(w.text, round(w.start, 2), round(w.end, 2)) for w in words_of(user.said)] == [
        ("wait", 1.0, 1.25), ("please", 1.25, 1.5), ("stop", 1.5, 1.75), ("now", 1.75, 2.0)]


def test_a_script_is_read(tmp_path, monkeypatch):
    spoken = []
    monkeypatch.setattr("infer.user.speak", lambda text, voice: (spoken.append((text, voice)), CLIP)[1])
    write_wav(tmp_path / "q.wav", scripted_speech([(0.0, 2.0)], 2.0))
    (tmp_path / "s.toml").write_text(
        'voice = "flite"\n[[line]]\nat = 1\ntext = "hello"\n[[line]]\ninto_answer = 2.0\nvoice = "hibari"\ntext = "stop"\n'
        'patience = 3\n[[line]]\nclip = "q.wav"\nfrom = 0.5\nto = 1.25\n')
    lines = read_script(tmp_path / "s.toml")
    assert spoken == [("hello", "flite"), ("stop", "hibari")]
    assert [(one.trigger, one.seconds, one.patience) for one in lines] == [
        ("at", 1.0, 8.0), ("into_answer", 2.0, 3.0), ("pause", 1.0, 8.0)]
    assert len(lines[2].pcm) == 0.75 * SAMPLE_RATE and lines[2].text == "(q.wav)"
    read_script(tmp_path / "s.toml", "espeak-ng")
    assert spoken[2] == ("hello", "espeak-ng")


@pytest.mark.parametrize(("text", "says"), [
    ("x = ", "not valid TOML"), ("[[lines]]\nat=1", "unknown key 'lines'"), ("voice='a'", "no \\[\\[line\\]\\]"),
    ("[[line]]\nat=1\npause=1\ntext='a'", "line 1: at and pause exclude"), ("[[line]]\nat=-1\ntext='a'", "at must be a number"),
    ("[[line]]\nat=nan\ntext='a'", "at must be a number"), ("[[line]]\nat=1", "either text or clip"),
    ("[[line]]\ntext=3", "text must be a string"), ("[[line]]\nwhen=3", "unknown key 'when'"),
    ("[[line]]\nclip='none.wav'", "none.wav: no such file"), ("[[line]]\ntext='hi'\nvoice='gramophone'", "no such engine")])
def test_a_mistaken_script_is_one_line(tmp_path, text, says):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises((ConfigError, InputError), match=says) as caught:
        read_script(tmp_path / "s.toml")
    assert "\n" not in str(caught.value)


def test_a_voice_that_is_not_here_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(voice, "_is_here", lambda engine: False)
    with pytest.raises(InputError, match="apt-get install espeak-ng"):
        speak("hello", "espeak-ng")
    with pytest.raises(InputError, match="no voice to speak 'hello'"):
        speak("hello")


@pytest.mark.parametrize("engine", voice.ENGINES)
def test_an_engine_says_the_same_each_time(engine):
    if engine not in available():
        pytest.skip(f"{engine} is not installed")
    first = speak("wait, stop", engine)
    voice._spoken.cache_clear()
    assert np.array_equal(first, speak("wait, stop", engine)) and first.dtype == np.float32
    assert 0.3 < len(first) / SAMPLE_RATE < 3 and np.sqrt((first**2).mean()) == pytest.approx(LEVEL, rel=0.1)
    assert np.abs(first[: SAMPLE_RATE // 20]).max() > 0.003  # no silence before it


def test_silence_is_cut_from_both_ends():
    pcm = np.concatenate([np.zeros(5_000, np.float32), CLIP, np.zeros(7_000, np.float32)])
    assert abs(len(trimmed(pcm, "x")) - len(CLIP)) < 200
    with pytest.raises(InputError, match="gives no sound"):
        trimmed(np.zeros(100, np.float32), "x")


def test_the_example_in_the_documentation_is_a_script(tmp_path, monkeypatch):
    monkeypatch.setattr("infer.user.speak", lambda text, voice: CLIP)
    text = (Path(__file__).resolve().parents[2] / "docs" / "live.md").read_text(encoding="utf-8")
    (tmp_path / "s.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    write_wav(tmp_path / "question.wav", CLIP)
    assert json.dumps([one.trigger for one in read_script(tmp_path / "s.toml")]) == '["at", "into_answer", "after_answer"]'
