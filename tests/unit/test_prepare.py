"""From recordings to shards: layouts, bad input, kills, full disks, workers; equal bytes whatever happened in between."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from own_recordings import Conversation, converse
from tiny_codec import write_codec

from duplex.audio import read_audio
from duplex.text import Tokenizer, row_to_words, words_to_row
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE
from train import prepare
from train.encode import open_codec
from train.shards import Mark, ShardSet

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 12.0


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    return write_codec(tmp_path_factory.mktemp("codec") / "codec")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings") / "set"
    for number in range(5):
        conversation = converse(number, SECONDS)
        if number == 1:
            conversation.events = []
        conversation.write(folder, f"r{number}", ".flac" if number == 2 else ".wav")
    return folder


def options(recordings, tools, out, *more):
    return [str(recordings), "--codec", str(tools[0]), "--tokenizer", str(tools[1]), "--codebooks", "2", "--per-shard", "2",
            "--out", str(out), *more]


@pytest.fixture(scope="module")
def whole(recordings, tools, tmp_path_factory):
    """Shards of an unbroken run."""
    out = tmp_path_factory.mktemp("whole") / "shards"
    assert prepare.main(options(recordings, tools, out)) == 0
    return out


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_shards_hold_codes_words_and_events(whole, recordings, tools):
    shards, tokenizer = ShardSet(whole), Tokenizer.load(tools[1])
    codec = open_codec(tools[0], 2)
    assert [shards.name(n) for n in range(len(shards))] == [f"r{n}" for n in range(5)]
    for number in range(5):
        conversation, codes = converse(number, SECONDS), shards.dialogue(number)
        frames = int(SECONDS * SAMPLE_RATE) // FRAME_SAMPLES
        assert codes.shape == (5, frames)
        pcm = read_audio(next(recordings.glob(f"r{number}.[wf]*")))[:, : frames * FRAME_SAMPLES]
        wanted = codec.encode(torch.from_numpy(pcm[:, None]))
        assert torch.equal(codes[1:3], wanted[0]) and torch.equal(codes[3:], wanted[1])
        for row, words in ((codes[0], conversation.system), (shards.user_text(number), conversation.user)):
            assert row.tolist() == words_to_row(words, frames, tokenizer).tolist()
            assert len(row_to_words(row.tolist(), tokenizer)) >= len(words) - 1
    turn = converse(0, SECONDS).events[1]
    assert Mark(turn["kind"], int(turn["start"] / 0.08), int(turn["end"] / 0.08)) in shards.marks(0)
    # Without labels the events are told from the sound.
    assert {"system_turn", "user_turn"} <= {mark.kind for mark in shards.marks(1)}


def test_a_second_run_changes_nothing_and_says_the_same(whole, recordings, tools, capsys):
    before = content(whole)
    assert prepare.main(options(recordings, tools, whole)) == 0
    assert content(whole) == before
    assert "3 shards" in capsys.readouterr().out


def test_workers_and_parts_write_the_same_bytes(whole, recordings, tools, tmp_path):
    assert prepare.main(options(recordings, tools, tmp_path / "pool", "--workers", "2")) == 0
    assert content(tmp_path / "pool") == content(whole)
    for part in ("1/2", "0/2"):
        assert prepare.main(options(recordings, tools, tmp_path / "parts", "--part", part)) == 0
    assert content(tmp_path / "parts") == content(whole)


def test_shards_of_something_else_are_left_alone(whole, recordings, tools, tmp_path, capsys):
    out = shutil.copytree(whole, tmp_path / "out")
    fewer = shutil.copytree(recordings, tmp_path / "fewer")
    (fewer / "r3.wav").unlink()
    assert prepare.main(options(fewer, tools, out)) == 2
    assert "other recordings" in capsys.readouterr().err
    assert prepare.main(options(recordings, tools, out, "--seconds", "5")) == 2
    assert "other seconds" in capsys.readouterr().err and content(out) == content(whole)


def run_command(arguments, **keywords):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen([sys.executable, "-m", "train.prepare", *arguments], cwd=ROOT, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords)


@pytest.mark.slow
def test_a_killed_run_leaves_usable_shards_and_goes_on_to_the_same_bytes(whole, recordings, tools, tmp_path):
    out = tmp_path / "out"
    process = run_command(options(recordings, tools, out))
    deadline = time.monotonic() + 300
    while not (out / "reports" / "shard-00000.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there = sorted(out.glob("shard-*.safetensors"))
    assert 1 <= len(there) <= 3
    shards = ShardSet(out)
    assert torch.equal(shards.dialogue(0), ShardSet(whole).dialogue(0))
    assert prepare.main(options(recordings, tools, out)) == 0
    assert content(out) == content(whole)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_the_finished_shards(recordings, tools, tmp_path):
    """Files may have 8 kB: the shard of one short recording fits, that of a long one does not."""
    folder, out = shutil.copytree(recordings, tmp_path / "set"), tmp_path / "out"
    converse(3, 100.0).write(folder, "r3")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))

    process = run_command([*options(folder, tools, out), "--per-shard", "1"], preexec_fn=limit)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and err.splitlines()[-1].startswith("error: ") and "Traceback" not in err
    assert sorted(p.name for p in out.glob("shard-*")) == [f"shard-{n:05d}.safetensors" for n in range(3)]
    assert len(ShardSet(out)) == 3 and (out / "rejected.jsonl").read_text() == ""


def write_pair(folder: Path, name: str, pcm, alignments) -> None:
    soundfile.write(folder / f"{name}.wav", np.asarray(pcm).T, SAMPLE_RATE, subtype="PCM_16")
    (folder / f"{name}.json").write_text(json.dumps({"alignments": alignments}))


def words_of(conversation: Conversation):
    return [[w.text, [w.start, w.end], "SPEAKER_MAIN"] for w in conversation.system]


def other_words():
    """The system's words of the middle of another recording."""
    return [[w.text, [w.start - 15, w.end - 15], "SPEAKER_MAIN"] for w in converse(99, 30.0).system if 15 < w.start < 26]


BAD = {
    "unreadable": (lambda f, n, c: (f / f"{n}.wav").write_bytes(b"RIFF but no wave"), "cannot be read|truncated"),
    "truncated": (lambda f, n, c: (f / f"{n}.wav").write_bytes((f / f"{n}.wav").read_bytes()[:-4000]), "truncated"),
    "empty": (lambda f, n, c: (f / f"{n}.wav").write_bytes(b""), "empty"),
    "no-samples": (lambda f, n, c: write_pair(f, n, np.zeros((2, 0)), []), "no samples"),
    "too-short": (lambda f, n, c: write_pair(f, n, np.zeros((2, 500)), []), "shorter than one frame"),
    "mono": (lambda f, n, c: write_pair(f, n, c.pcm[:1], words_of(c)), "mono where stereo is needed"),
    "three": (lambda f, n, c: write_pair(f, n, np.vstack([c.pcm, c.pcm[:1]]), words_of(c)), "3 channels"),
    "twin": (lambda f, n, c: write_pair(f, n, c.pcm[[0, 0]], words_of(c)), "mono saved as stereo"),
    "no-words": (lambda f, n, c: (f / f"{n}.json").unlink(), "no word times"),
    "no-json": (lambda f, n, c: (f / f"{n}.json").write_text("{"), "not valid JSON"),
    "other-json": (lambda f, n, c: (f / f"{n}.json").write_text('{"words": []}'), "not a file of word times"),
    "reversed": (lambda f, n, c: write_pair(f, n, c.pcm, [["no", [3.0, 2.0], "SPEAKER_MAIN"]]), "reversed times"),
    "disordered": (lambda f, n, c: write_pair(f, n, c.pcm, words_of(c)[::-1]), "out of order"),
    "overlapping": (lambda f, n, c: write_pair(f, n, c.pcm, [["a", [1.0, 2.0], "SPEAKER_MAIN"],
                                                             ["b", [1.5, 2.5], "SPEAKER_MAIN"]]), "overlaps 'a'"),
    "negative": (lambda f, n, c: write_pair(f, n, c.pcm, [["a", [-1.0, 2.0], "SPEAKER_MAIN"]]), "counted in seconds"),
    "stranger": (lambda f, n, c: write_pair(f, n, c.pcm, [["a", [1.0, 1.5], "SPEAKER_07"]]), "unknown speaker 'SPEAKER_07'"),
    "too-long": (lambda f, n, c: write_pair(f, n, c.pcm, [["a", [90.0, 91.0], "SPEAKER_MAIN"]]), "mismatched length"),
    "swapped": (lambda f, n, c: write_pair(f, n, c.pcm[::-1], words_of(c)), "channels are swapped"),
    "mislabelled": (lambda f, n, c: write_pair(f, n, c.pcm, other_words()), "mislabelled|swapped"),
    "silent": (lambda f, n, c: write_pair(f, n, c.pcm * [[1e-5], [1.0]], words_of(c)), "silent|mislabelled"),
    "no-event": (lambda f, n, c: (f / f"{n}.events.jsonl").write_text('{"kind": "turn"}\n'), "line 1 is no event"),
}


def test_every_kind_of_bad_input_is_skipped_named_and_counted(tools, tmp_path, capsys):
    folder, out = tmp_path / "set", tmp_path / "out"
    for name in BAD:
        conversation = converse(7, SECONDS)
        conversation.write(folder, name)
        BAD[name][0](folder, name, conversation)
    converse(8, SECONDS).write(folder, "good")
    assert prepare.main(options(folder, tools, out)) == 1
    captured = capsys.readouterr()
    rejected = {line["name"]: line for line in map(json.loads, (out / "rejected.jsonl").read_text().splitlines())}
    assert sorted(rejected) == sorted(BAD)
    for name, line in rejected.items():
        assert Path(line["path"]).stem == name and name in line["reason"] and "\n" not in line["reason"]
        assert re.search(BAD[name][1], line["reason"]), line["reason"]
    assert f"{len(BAD)} recordings rejected" in captured.out and "more than 5%" in captured.err
    shards = ShardSet(out)
    assert [shards.name(n) for n in range(len(shards))] == ["good"]
    # The second run counts them again without reading them again.
    assert prepare.main(options(folder, tools, out)) == 1


def test_few_rejected_recordings_are_no_failure(recordings, tools, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(20):
        shutil.copy(recordings / "r0.wav", folder / f"g{number:02d}.wav")
        shutil.copy(recordings / "r0.json", folder / f"g{number:02d}.json")
    (folder / "bad.wav").write_bytes(b"")
    out = tmp_path / "out"
    assert prepare.main([*options(folder, tools, out), "--per-shard", "21"]) == 0
    assert len((out / "rejected.jsonl").read_text().splitlines()) == 1 and len(ShardSet(out)) == 20


@pytest.mark.parametrize("more, message", [(["--part", "2/2"], "--part 2/2"), (["--per-shard", "0"], "--per-shard"),
                                           (["--codec", "nowhere"], "nowhere")])
def test_wrong_options_are_one_line(recordings, tools, tmp_path, capsys, more, message):
    assert prepare.main([*options(recordings, tools, tmp_path / "out"), *more]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not list((tmp_path / "out").glob("shard-*"))
