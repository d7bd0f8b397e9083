"""The synthesis commands: same bytes after a kill, one line for what is wrong, the corpus table, word times."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tones import ToneEngine

from duplex.text import Word
from duplex.units import SAMPLE_RATE
from train import speak, synthesize
from train.corpus import filling, table
from train.corpus.bank import Bank, Request
from train.corpus.exchange import key
from train.corpus.timing import grouped, matched, trimmed
from train.corpus.utterance import EngineMissing

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text("seed = 3\nseconds = 20.0\n")
    return path


def bytes_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, bank_folder, recipe):
    out = tmp_path_factory.mktemp("corpus")
    assert synthesize.main([str(recipe), "--bank", str(bank_folder), "--hours", "0.1", "--workers", "1", "--out", str(out)]) == 0
    return out


def test_a_killed_run_leaves_whole_files_and_ends_in_the_same_bytes(tmp_path, bank_folder, recipe, corpus):
    command = [sys.executable, "-m", "train.synthesize", str(recipe), "--bank", str(bank_folder), "--hours", "0.1",
               "--workers", "1", "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    for _ in range(3000):
        if len(list(tmp_path.glob("train/*.wav"))) >= 3 or process.poll() is not None:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = bytes_of(corpus)
    for name, data in bytes_of(tmp_path).items():
        assert name.endswith(".part") or data == finished[name]
    assert synthesize.main(command[3:]) == 0
    again = bytes_of(tmp_path)
    assert {n: d for n, d in again.items() if not n.endswith(".part")} == finished


def test_the_files_hold_both_channels_and_both_speakers(corpus):
    sound = corpus / "train" / "000001.wav"
    info = soundfile.info(sound)
    assert (info.channels, info.samplerate, info.frames) == (2, SAMPLE_RATE, 20 * SAMPLE_RATE)
    labels = [label for _, _, label in json.loads(sound.with_suffix(".json").read_text())["alignments"]]
    assert set(labels) == {"SPEAKER_MAIN", "SPEAKER_USER"}
    for line in sound.with_suffix(".events.jsonl").read_text().splitlines():
        event = json.loads(line)
        assert 0 <= event["start"] <= event["end"] <= 20.0 and event["kind"]


def test_flac_holds_the_same_samples(tmp_path, bank_folder, corpus):
    recipe = tmp_path / "flac.toml"
    recipe.write_text('seed = 3\nseconds = 20.0\nformat = "flac"\n')
    arguments = [str(recipe), "--bank", str(bank_folder), "--hours", "0.012", "--workers", "1", "--out", str(tmp_path / "out")]
    assert synthesize.main(arguments) == 0
    mine = soundfile.read(tmp_path / "out" / "train" / "000000.flac", dtype="int16")[0]
    assert np.array_equal(mine, soundfile.read(corpus / "train" / "000000.wav", dtype="int16")[0])


@pytest.mark.parametrize("text, hint", [("secnods = 3.0\n", "seconds"), ("seconds = 'long'\n", "seconds"),
                                        ("format = 'mp3'\n", "flac"), ("engines = ['festival']\n", "flite"),
                                        ("[weights]\nadition = 2\n", "addition"), ("[weights]\ncafe = 0\n", "above 0")])
def test_a_bad_recipe_is_one_line(tmp_path, bank_folder, capsys, text, hint):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    assert synthesize.main([str(recipe), "--bank", str(bank_folder), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and hint in err and not (tmp_path / "out").exists()


def test_the_system_says_more_than_its_lines_for_the_codec_alone():
    systems, users = [f"line {n}" for n in range(50)], [*(f"question {n}" for n in range(2000)), key("deux et deux", "fr")]

    def more(share: float) -> list[Request]:
        return filling.more_of_the_system(random.Random(1), users, systems, share)

    wanted = more(1.0)
    assert wanted == more(1.0) and {r.role for r in wanted} == {"free"} and {r.voice for r in wanted} == {"heart"}
    assert Counter(r.text for r in wanted if r.text in systems) == dict.fromkeys(systems, len(filling.OWN_SPEEDS))
    assert sum(r.text in users for r in wanted) == 2000 < filling.OWN_LINES and users[-1] not in {r.text for r in wanted}
    assert 0.05 < len(more(0.1)) / len(wanted) < 0.15


class Absent:
    """An engine that is not installed."""

    def __init__(self):
        raise EngineMissing("absent is not installed: apt-get install absent")


def test_a_missing_engine_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(filling.ENGINES, "flite", Absent)
    monkeypatch.setitem(filling.ENGINES, "hibari", ToneEngine)
    monkeypatch.setattr(filling, "requests_for", lambda *_: [Request("one two", "heart", "user")])
    voices = filling.Voices(("flite", "hibari", "sounds"))
    assert filling.fill_bank(tmp_path, voices) == {"hibari": 1, "sounds": 1}
    assert "flite: skipped" in (err := capsys.readouterr().err) and "apt-get install absent" in err
    assert [c.text for c in Bank(tmp_path).clips if c.engine == "hibari"] == ["one two"]
    assert not list(tmp_path.glob(".*"))


def test_no_engine_at_all_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(filling.ENGINES, "flite", Absent)
    assert speak.main(["--out", str(tmp_path / "bank"), "--engine", "flite"]) == 2
    err = capsys.readouterr().err
    assert "error: no engine could run" in err and not (tmp_path / "bank").exists()


def test_the_table_counts_what_is_there(tmp_path, corpus, capsys):
    page = tmp_path / "corpus.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    assert table.main([str(corpus), "--into", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| dialogues | 17 | 1 |" in text and "Speakers in both splits: 0." in text and "| Fisher (people) | 51.1 |" in text
    turns = sum('"kind": "user_turn"' in line for p in corpus.rglob("*.events.jsonl") for line in p.read_text().splitlines())
    assert f"| user_turn | {turns} |" in text
    page.write_text("no marks")
    assert table.main([str(corpus), "--into", str(page)]) == 2 and "corpus table: begin" in capsys.readouterr().err


def test_phone_times_become_word_times():
    symbols = [("", 0.1), ("h", 0.05), ("ˈ", 0.0), ("i", 0.1), (" ", 0.02), ("u", 0.2), (".", 0.1)]
    assert [(round(w.start, 3), round(w.end, 3)) for w in grouped(symbols, ["hi", "you."])] == [(0.1, 0.25), (0.27, 0.47)]
    assert grouped(symbols, ["hi"]) == ()  # the counts differ
    assert trimmed([Word("a", 0.0, 0.5), Word("b", 0.4, 0.6)]) == (Word("a", 0.0, 0.4), Word("b", 0.4, 0.6))


def test_phones_without_word_marks_find_their_words():
    # "a cat", where the article is reduced and a phone was added before the last word.
    phones = [("ax", 0.1, 0.2), ("q", 0.2, 0.25), ("k", 0.25, 0.3), ("ae", 0.3, 0.4), ("t", 0.4, 0.5)]
    words = matched(phones, [["ey"], ["k", "ae", "t"]], ["a", "cat"])
    assert [(w.text, w.start, w.end) for w in words] == [("a", 0.1, 0.25), ("cat", 0.25, 0.5)]
    assert matched(phones[:1], [["ax"], ["k", "ae", "t"]], ["a", "cat"]) == ()
