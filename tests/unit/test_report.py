"""What is written about a dialogue: transcript, events, picture, and the folder that holds them."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from duplex.errors import InputError
from duplex.policy import HeardLog
from duplex.simulate import Dialogue
from duplex.testing import scripted_speech
from duplex.text import Word
from duplex.turns import TurnTracker
from duplex.vad import activity
from infer import report
from infer.report import About, check_folder, event_lines, human_summary, transcript, utterances, write_report
from infer.timeline import MAX_ROWS, marks_of, timeline

ABOUT = About("tiny", "user.wav", {"seed": 3})
FILES = ["conversation.wav", "events.jsonl", "timeline.png", "transcript.md"]


def dialogue_of(system, user, seconds, system_words=(), user_words=()):
    """A dialogue whose sides make sound in the given spans of seconds."""
    system_pcm, user_pcm = scripted_speech(system, seconds, amplitude=0.2), scripted_speech(user, seconds, 300.0)
    tracker, events = TurnTracker(), []
    for pair in zip(activity(system_pcm), activity(user_pcm), strict=True):
        events += tracker.push(*map(bool, pair))
    events += tracker.flush()
    return Dialogue(system_pcm, user_pcm, (), tuple(system_words), tuple(sorted(events, key=lambda e: e.time)),
                    tuple(user_words), (0.010, 0.012, 0.030))


def spoken(text, start, pace=0.3):
    return [Word(word, start + pace * n, start + pace * n + 0.2) for n, word in enumerate(text.split())]


DIALOGUE = dialogue_of(
    system=[(3.2, 6.4), (8.8, 10.4)], user=[(0.8, 2.4), (4.0, 4.4), (5.6, 8.0)], seconds=12.0,
    system_words=spoken("it leaves at nine from", 3.2) + spoken("of course", 8.8),
    user_words=spoken("when does it leave", 0.8) + spoken("and the bus", 5.6))


def test_utterances_join_words_and_keep_wordless_speech():
    assert [(said.side, said.text) for said in utterances(DIALOGUE)] == [
        ("user", "when does it leave"), ("system", "it leaves at nine from"), ("user", ""), ("user", "and the bus"),
        ("system", "of course")]


def test_the_transcript_says_who_said_what_when_and_how_the_turns_went():
    text = transcript(DIALOGUE, ABOUT)
    assert "| 0:03.2 | 0:04.6 | system | it leaves at nine from |" in text
    assert "| 0:04.0 | 0:04.4 | user | *(speaks)* |" in text
    assert "- response latency 0.80 s, 0.80 s (median 0.80 s)" in text
    assert "- interruptions by the user: 1 (1 yielded to, after 0.80 s)" in text
    assert "| 0:04.0 | backchannel | 0.40 |" in text and "| 0:06.4 | yielded | 0.80 |" in text


def test_the_summary_for_people_has_words_times_latencies_and_speed():
    text = human_summary(DIALOGUE)
    assert " system  0:03.2 - 0:04.6  it leaves at nine from" in text
    assert "median 0.80 s" in text and "p50 12.0 ms" in text and "real-time factor 0.22" in text


def test_what_a_model_writes_cannot_break_table_or_terminal():
    words = (Word("a|b", 0.1, 0.2), Word("c\nd\x1b[2J", 0.3, 0.4))
    dialogue = replace(DIALOGUE, words=words)
    assert "| a\\|b c\ufffdd\ufffd[2J |" in transcript(dialogue, ABOUT)
    assert "\x1b" not in human_summary(dialogue) + transcript(dialogue, ABOUT)
    assert all("\x1b" not in line and "\n" not in line for line in event_lines(dialogue, ABOUT))


def test_events_are_lines_of_json_in_order_with_the_words_among_them():
    rows = [json.loads(line) for line in event_lines(DIALOGUE, ABOUT)]
    assert rows[0] == {"kind": "dialogue", "seconds": 12.0, "model": "tiny", "user": "user.wav", "seed": 3}
    assert rows[-1]["kind"] == "summary" and rows[-1]["barge_ins"] == 1
    times = [row["time"] for row in rows[1:-1] if "time" in row]
    assert times == sorted(times)
    assert {"kind": "system_word", "time": 3.2, "end": 3.4, "word": "it"} in rows
    assert {"kind": "backchannel", "time": 4.0, "known": 4.64, "seconds": 0.4} in rows


def test_marks_tell_what_came_of_each_interruption():
    assert [(mark.kind, mark.label) for mark in marks_of(DIALOGUE.events)] == [
        ("response", "0.80 s"), ("backchannel", "backchannel"), ("barge-in", "barge-in, silent after 0.80 s"),
        ("response", "0.80 s")]
    ignored = dialogue_of(system=[(0.8, 7.2)], user=[(2.4, 4.8)], seconds=8.0)
    assert [mark.label for mark in marks_of(ignored.events)] == ["barge-in, not yielded to"]
    false = dialogue_of(system=[(0.8, 2.8), (4.0, 5.6)], user=[(2.4, 2.8)], seconds=8.0)
    assert [mark.kind for mark in marks_of(false.events)] == ["false yield"]


def boxes_of(figure):
    """Rectangles of all texts of a picture, in pixels, with their content."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts),
             *(text for axes in figure.axes for text in axes.get_xticklabels()
               if axes.get_xlim()[0] <= text.get_position()[0] <= axes.get_xlim()[1]),
             *(text for legend in figure.legends for text in legend.get_texts())]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text()]


def collisions(boxes):
    """Pairs of texts that cover each other."""
    names, rectangles = [name for name, _ in boxes], np.array([box.extents for _, box in boxes])
    low = np.maximum(rectangles[:, None, :2], rectangles[None, :, :2])
    high = np.minimum(rectangles[:, None, 2:], rectangles[None, :, 2:])
    # Lines of text may touch: the boxes are as high as the highest letters.
    covered = ((high - low)[..., 0] > 0) & ((high - low)[..., 1] > 1.5)
    return [(names[a], names[b]) for a, b in np.argwhere(np.triu(covered, 1))]


@pytest.mark.parametrize(("seconds", "pace", "rows"), [(4.0, 0.25, 1), (40.0, 0.18, 3), (210.0, 0.5, MAX_ROWS)])
def test_no_text_of_the_picture_covers_another_or_leaves_it(seconds, pace, rows):
    rng = np.random.default_rng(0)
    names = ["a", "to", "bus", "thinking", "notwithstanding", "I", "$5", "what's"]
    words = [[Word(str(rng.choice(names)), pace * n, pace * n + 0.15) for n in range(int(seconds / pace))] for _ in "ab"]
    marks = [(start + 0.4, start + 1.8) for start in np.arange(0, seconds - 2, 4.0)]
    dialogue = dialogue_of([(start + 0.8, start + 3.2) for start, _ in marks], marks, seconds, *words)
    figure = timeline(dialogue, "A long name of a recording.wav with model organisation/and-its-model")
    assert len(figure.axes) == rows
    boxes = boxes_of(figure)
    assert collisions(boxes) == []
    width, height = figure.canvas.get_width_height()
    for name, box in boxes:
        assert 0 <= box.x0 and box.x1 <= width and 0 <= box.y0 and box.y1 <= height, name


def test_every_word_of_a_short_dialogue_is_in_the_picture():
    shown = [name for name, _ in boxes_of(timeline(DIALOGUE, "title"))]
    for word in DIALOGUE.words + DIALOGUE.user_words:
        assert word.text in shown
    assert "system speaks" in shown and "barge-in until the system is silent" in shown


@pytest.mark.parametrize("seconds", [0.0, 0.08, 16.0, 16.08])
def test_any_length_has_a_picture(tmp_path, seconds):
    dialogue = dialogue_of([], [], seconds)
    write_report(replace(dialogue, step_seconds=()), ABOUT, tmp_path / "out")
    assert (tmp_path / "out" / "timeline.png").stat().st_size > 1_000


def test_a_report_is_four_files_and_nothing_else(tmp_path):
    folder = tmp_path / "deep" / "out"
    assert [path.name for path in write_report(DIALOGUE, ABOUT, folder)] == FILES
    assert sorted(os.listdir(folder)) == FILES and os.listdir(folder.parent) == ["out"]
    samples, rate = soundfile.read(folder / "conversation.wav")
    assert rate == 24_000 and np.abs(samples - DIALOGUE.stereo.T).max() < 1e-4  # left is the system
    assert (folder / "timeline.png").read_bytes().startswith(b"\x89PNG")
    again = {name: (folder / name).read_bytes() for name in FILES}
    (folder / "mine.txt").write_text("keep")
    write_report(DIALOGUE, ABOUT, folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == again
    assert (folder / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a bug"), KeyboardInterrupt()])
def test_a_report_that_fails_leaves_nothing_half_written(tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(report, "draw_timeline", fail)
    with pytest.raises(InputError if isinstance(error, OSError) else type(error)):
        write_report(DIALOGUE, ABOUT, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(InputError, match="is a file; .*--out"):
            check_folder(folder)
    assert check_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"


def test_what_was_not_heard_is_told_as_such_and_what_followed_begins_a_line():
    heard = HeardLog()
    for frame in range(44, 58):  # 3.52 to 4.64 s: "leaves at nine" and more
        heard.lose(frame)
    dialogue = replace(DIALOGUE, heard=heard, words=tuple(spoken("it leaves at nine from", 3.2)) + (Word("again", 4.8, 5.0),))
    said = [(line.text, line.unheard) for line in utterances(dialogue) if line.side == "system" and line.end < 8]
    assert said == [("it", "leaves at nine from"), ("again", "")]
    assert "| 0:03.2 | 0:03.4 | system | it ... *(not heard: leaves at nine from)* |" in transcript(dialogue, ABOUT)
    assert "it ... (not heard: leaves at nine from)" in human_summary(dialogue)
    rows = [json.loads(line) for line in event_lines(dialogue, ABOUT)]
    flags = {row["word"]: row.get("heard", True) for row in rows if row["kind"] == "system_word"}
    assert flags == {"it": True, "leaves": False, "at": False, "nine": False, "from": False, "again": True}


def test_script_delivery_and_turn_taking_are_in_the_events():
    about = replace(ABOUT, script=({"time": 0.8, "end": 2.4, "text": "when"},), delivery={"underrun_share": 0.1})
    rows = {row["kind"]: row for row in map(json.loads, event_lines(DIALOGUE, about))}
    assert rows["script"]["end"] == 2.4 and rows["delivery"]["underrun_share"] == 0.1
    assert rows["turn_taking"]["overlap"]["count"] == 2
