"""The validator: planted faults are found by their kind, clean recordings have none, statistics stand beside Fisher's."""

import json
import shutil

import numpy as np
import pytest
from own_recordings import SPOILT, converse

from duplex.units import SAMPLE_RATE
from train import validate as command
from train.own.checks import clipped_share, faults, measure
from train.own.crosstalk import crosstalk_db
from train.own.layout import find_items
from train.own.recording import Reading, Recording, load
from train.own.speech import levels, speech_mask


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    for number in range(4):
        converse(number).write(folder, f"c{number}")
    return folder


def findings(folder):
    return command.validate(find_items(folder), Reading(need_words=False))


def test_clean_recordings_have_no_fault(clean, capsys):
    assert [(f.name, f.faults) for f in findings(clean) if f.faults or f.rejected] == []
    assert command.main([str(clean)]) == 0
    out = capsys.readouterr().out
    assert "0 unusable, 0 faulty" in out and "Fisher (people)" in out and "51.1" in out


def test_every_planted_fault_is_found_and_no_other(clean, tmp_path, capsys):
    shutil.copytree(clean, tmp_path / "set")
    for number, (name, (_, spoil)) in enumerate(SPOILT.items()):
        conversation = converse(10 + number)
        spoil(conversation)
        conversation.write(tmp_path / "set", name)
    shutil.copy(clean / "c0.wav", tmp_path / "set" / "twin.wav")
    shutil.copy(clean / "c0.json", tmp_path / "set" / "twin.json")
    same = converse(10)
    same.pcm[1] = same.pcm[0] * 0.999 + 1e-4 * same.pcm[1]
    same.user = []
    same.write(tmp_path / "set", "same")
    assert command.main([str(tmp_path / "set"), "--report", str(tmp_path / "report.jsonl")]) == 1
    found = {line["name"]: {f["kind"] for f in line["faults"]}
             for line in map(json.loads, (tmp_path / "report.jsonl").read_text().splitlines())}
    wanted = {name: kind for name, (kind, _) in SPOILT.items()} | {"twin": "duplicate", "same": "identical channels"}
    assert len(wanted) >= 10
    assert found == {name: {kind} for name, kind in wanted.items()} | {f"c{number}": set() for number in range(4)}
    assert f"18 recordings, {18 * 50 / 3600:.2f} h" in capsys.readouterr().out


def test_an_unusable_recording_is_named_with_its_reason(clean, tmp_path, capsys):
    folder = shutil.copytree(clean, tmp_path / "set")
    (folder / "c2.wav").write_bytes(b"not sound")
    assert command.main([str(folder)]) == 1
    out = capsys.readouterr().out
    assert "c2: unusable: " in out and "c2.wav: cannot be read as audio" in out and "1 unusable" in out


def test_the_drift_is_told_with_its_size(tmp_path):
    conversation = converse(5, seconds=120.0)
    SPOILT["drifted"][1](conversation)
    conversation.write(tmp_path, "d")
    m = measure(load(find_items(tmp_path)[0]))
    assert m.timing.drift == pytest.approx(-0.015 * 120, abs=0.15) and m.timing.beginnings >= 20


@pytest.mark.parametrize("gain_db", [-12, -20, -30])
def test_the_leak_is_told_with_its_level(gain_db):
    conversation = converse(6)
    late = round(0.2 * SAMPLE_RATE)
    conversation.pcm[0, late:] += 10 ** (gain_db / 20) * conversation.pcm[1, :-late]
    pcm = conversation.pcm
    of_system, of_user = crosstalk_db(pcm, [speech_mask(t) for t in pcm], [levels(t) for t in pcm])
    assert of_user == pytest.approx(gain_db, abs=2.5) and of_system == float("-inf")


def test_flat_peaks_are_counted_and_a_loud_tone_has_none():
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * 300 * time).astype(np.float32)
    assert clipped_share(0.99 * tone) == 0.0
    assert clipped_share(np.clip(tone, -0.5, 0.5)) > 0.5
    assert clipped_share(np.zeros(100, np.float32)) == 0.0


def test_recordings_of_nothing_are_measured_without_a_crash():
    for samples in (1920, 24_000, 240_000):
        for pcm in (np.zeros((2, samples), np.float32), np.full((2, samples), 0.1, np.float32)):
            kinds = {f.kind for f in faults(measure(Recording("x", pcm)))}
            assert kinds
