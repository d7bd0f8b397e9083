"""Why answers are wrong: each kind of miss is told from the others, and the table counts them."""

import pytest

from benchmarks import errors


def entry(scenario, asked, expected, heard, right=False, speaker="hibari:x", **more):
    return {"item": "turn/0000", "scenario": scenario, "speaker": speaker, "asked": asked, "expected": [expected], "heard": heard,
            "right": right, **more}


SUM = ("addition", "what is three plus five?", "three plus five is eight.")
OPPOSITE = ("opposites", "what is the opposite of hot?", "the opposite of hot is cold.")


@pytest.mark.parametrize("case, kind", [
    (entry(*SUM, "three plus five is eight", True), "right"),
    (entry(*SUM, ""), "silent"),
    (entry(*SUM, "nice to meet you anna"), "another"),
    (entry(*SUM, "four plus five is nine"), "misheard"),
    (entry(*SUM, "three plus five is nine"), "concluded"),
    (entry(*SUM, "three plus five"), "unfinished"),
    (entry(*SUM, "three plus five is eight okay"), "more"),
    (entry(*SUM, "garden water glass star"), "garbled"),
    (entry(*OPPOSITE, "the opposite of big is small"), "misheard"),
    (entry(*OPPOSITE, "the opposite of hot is small"), "concluded"),
    (entry("name_recall", "what is my name?", "your name is anna.", "your name is paula"), "misheard"),
    (entry("name_recall", "my name is anna", "nice to meet you, anna.", "three plus five is eight"), "another"),
    (entry("counting, stop", "stop", "okay.", "one two three four five six seven eight"), "another"),
    (entry(*SUM, "x", right=None), None),
])
def test_kinds_of_answers(case, kind):
    assert errors.kind(case) == kind


def test_a_long_answer_that_the_recording_cuts_is_compared_as_far_as_it_goes():
    story = "once upon a time a little star fell into a garden and a girl put it in a glass of water"
    assert errors.kind(entry("story", "tell me a story", story, " ".join(story.split()[:9]))) == "unfinished"


def test_the_analysis_counts_by_task_voice_and_subject():
    found = {"turn": [entry(*SUM, "four plus five is nine"), entry(*SUM, "three plus five is eight", True, "flite:a"),
                      entry("greeting", "hello", "hello, how can i help you?", "you are welcome", speaker="flite:a")],
             "interruption": [entry("counting, stop", "stop", "okay.", "", item="interruption/0000")],
             "pause": [entry(*SUM, "", marks={"pause": [1.0, 1.7]}, takes_over=True),
                       entry(*SUM, "", marks={"pause": [1.0, 1.75]}, takes_over=False)]}
    made = errors.analysis(found, [{"spoke": True, "words": False, "room": 0}, {"spoke": False, "words": False, "room": 0}])
    assert made["by_task"]["turn"]["n"] == 3 and made["by_task"]["turn"]["misheard"] == pytest.approx(1 / 3, abs=1e-3)
    assert made["by_voice"]["flite"]["right"]["value"] == 0.5 and made["by_voice"]["hibari"]["misheard"] == 1
    assert set(made["by_group"]) == {"numbers", "talk"} and made["interruptions"]["stop"]["silent"] == 1
    assert made["pauses"] == {"0.6 to 0.8 s": {"value": 0.5, "low": 0, "high": 1, "n": 2}}
    shown = dict(errors.tables({"errors": made}))
    assert "| questions | 3 | 33.3 %" in shown["Why answers are wrong"] and "| 0.6 to 0.8 s |" in shown["Pauses by length"]
    assert "| digital silence | 50.0 % [0.0, 100.0] (n = 2) | 0.0 % |" in shown["Silence by room"]
    assert "breaks off" not in shown["Why answers are wrong"]  # columns that are empty are left out
    assert errors.tables({}) == []


def test_the_command_shows_examples(tmp_path, capsys):
    from benchmarks import record

    details = {"turn": [entry(*SUM, "four plus five is nine")]}
    record.write(tmp_path / "card.json", {"benchmark": "card", "details": details})
    assert errors.main([str(tmp_path / "card.json")]) == 0
    assert 'expected "three plus five is eight.", said "four plus five is nine"' in capsys.readouterr().out
    record.write(tmp_path / "bare.json", {"benchmark": "card"})
    assert errors.main([str(tmp_path / "bare.json")]) == 2
    assert "no card with its items" in capsys.readouterr().err
