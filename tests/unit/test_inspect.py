"""Pictures, exports and sound of training dialogues, from recordings and from shards."""

import json
import types

import matplotlib.image
import numpy as np
import pytest
import torch
from own_recordings import converse
from tiny_codec import write_codec

from duplex.audio import read_audio
from duplex.text import Tokenizer, row_to_words
from train import inspect, prepare
from train.encode import open_codec
from train.own.layout import find_items
from train.own.recording import load
from train.picture import EVENT_COLOURS, LANE_COLOURS, Scene, picture
from train.shards import ShardSet

SECONDS = 15.0


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    return write_codec(tmp_path_factory.mktemp("codec") / "codec")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings") / "set"
    for number in range(4):
        converse(number, SECONDS).write(folder, f"r{number}")
    return folder


@pytest.fixture(scope="module")
def shards(recordings, tools, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    assert prepare.main([str(recordings), "--codec", str(tools[0]), "--tokenizer", str(tools[1]), "--codebooks", "2",
                         "--out", str(out)]) == 0
    return out


def colours_in(path):
    pixels = (matplotlib.image.imread(path)[..., :3] * 255).round().astype(int)
    found = {tuple(pixel) for pixel in np.unique(pixels.reshape(-1, 3), axis=0)}
    return lambda name: tuple(int(name[i : i + 2], 16) for i in (1, 3, 5)) in found


def test_recordings_are_drawn(recordings, tools, tmp_path, capsys):
    arguments = [str(recordings), "--n", "2", "--out", str(tmp_path), "--codec", str(tools[0]), "--codebooks", "2"]
    assert inspect.main(arguments) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r1.png", "r3.png"]
    has = colours_in(tmp_path / "r1.png")
    assert all(has(colour) for colour in LANE_COLOURS.values())
    image = matplotlib.image.imread(tmp_path / "r1.png")
    assert image.shape[1] == 1600 and image.shape[0] > 500 and len(np.unique(image.reshape(-1, 4), axis=0)) > 200
    words = len(converse(1, SECONDS).system), len(converse(1, SECONDS).user)
    assert f"r1.png: 15.0 s, {words[0]} + {words[1]} words" in capsys.readouterr().out


def test_everything_in_a_scene_is_in_the_picture(recordings):
    recording = load(find_items(recordings)[0])
    events = [*recording.events, {"kind": "barge_in", "start": 3.0, "end": 3.4}, {"kind": "yielded", "start": 3.1, "end": 3.6},
              {"kind": "noise", "start": 0.0, "end": 15.0}]
    codes = np.arange(4 * 187).reshape(4, 187) % 16
    scene = Scene("a name", recording.seconds, recording.pcm, (recording.system_words, recording.user_words), events, codes)
    figure = picture(scene)
    shown = {text.get_text() for axes in figure.axes for text in axes.texts} | {text.get_text() for text in figure.texts}
    assert {w.text for w in (*recording.system_words, *recording.user_words)} <= shown
    assert {"barge in", "yielded", "a name", "system", "user", "codes"} <= shown
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"system's turn", "user's turn", "barge in", "yielded"} <= legend
    assert "noise" not in legend and any("throughout: noise" in text for text in shown)
    heat = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert sum(h.shape[1] for h in heat) == pytest.approx(187, abs=2) and {h.shape[0] for h in heat} == {5}
    assert len(EVENT_COLOURS) == len(set(EVENT_COLOURS))


def test_shards_are_decoded_drawn_and_exported(shards, tools, tmp_path, capsys):
    arguments = [str(shards), "--name", "r2", "--out", str(tmp_path), "--codec", str(tools[0]), "--tokenizer", str(tools[1])]
    assert inspect.main([*arguments, "--export"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r2.events.jsonl", "r2.json", "r2.png", "r2.wav"]
    codes = ShardSet(shards).dialogue(2)
    pcm = open_codec(tools[0], 2).decode(torch.stack([codes[1:3], codes[3:]]))[:, 0].numpy()
    assert np.allclose(read_audio(tmp_path / "r2.wav"), pcm.clip(-1, 1), atol=1e-3)
    words = json.loads((tmp_path / "r2.json").read_text())["alignments"]
    told = row_to_words(codes[0].tolist(), Tokenizer.load(tools[1]))
    assert len(told) > 10 and [text for text, _, label in words if label == "SPEAKER_MAIN"] == [w.text for w in told]


def test_shards_without_codec_and_tokenizer_show_what_there_is(shards, tmp_path, capsys):
    (shard,) = shards.glob("shard-*")
    assert inspect.main([str(shard), "--n", "1", "--seconds", "5", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "5.0 s" in out and "no codec: no sound, no tokenizer: no words" in out
    assert inspect.main([str(shard), "--n", "1", "--out", str(tmp_path), "--play"]) == 2
    assert "give --codec" in capsys.readouterr().err


def test_playing_hands_both_channels_to_the_device(recordings, tmp_path, monkeypatch):
    played = []
    device = types.SimpleNamespace(PortAudioError=OSError,
                                   play=lambda pcm, rate, blocking: played.append((pcm.shape, rate, blocking)))
    monkeypatch.setitem(inspect.sys.modules, "sounddevice", device)
    assert inspect.main([str(recordings), "--n", "1", "--start", "2", "--seconds", "4", "--out", str(tmp_path), "--play"]) == 0
    assert played == [((96_000, 2), 24_000, True)]


@pytest.mark.parametrize("more, message", [
    (["--name", "nobody"], "no dialogue named 'nobody'"), (["--n", "0"], "--n"), (["--start", "99"], "has 15.0 s"),
    (["--tokenizer", "nowhere.model"], "nowhere.model")])
def test_what_cannot_be_shown_is_one_line(shards, tmp_path, capsys, more, message):
    assert inspect.main([str(shards), "--out", str(tmp_path), *more]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err and not list(tmp_path.iterdir())


def test_an_unusable_recording_does_not_stop_the_others(recordings, tmp_path, capsys):
    folder = tmp_path / "set"
    converse(1, SECONDS).write(folder, "good")
    (folder / "bad.wav").write_bytes(b"")
    assert inspect.main([str(folder), "--n", "2", "--out", str(tmp_path / "out")]) == 1
    assert "bad.wav: is empty" in capsys.readouterr().err and (tmp_path / "out" / "good.png").exists()


def test_choices_are_spread():
    assert inspect.chosen(10, 2) == [2, 7] and inspect.chosen(3, 5) == [0, 1, 2] and inspect.chosen(100, 1) == [50]
