"""The bench commands from end to end, with a random model, tones for voices and a recogniser that knows the words."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fake_clips import fake_clips

from benchmarks import ablation, capability, card, codec, dialogue, patience, recogniser, record, render, report, segments, subset
from benchmarks.items import Item, Line
from benchmarks.systems import ModelSystem, Response, controls
from duplex.audio import read_audio, write_wav
from duplex.errors import InputError
from duplex.testing import fake_loaded_model, tone
from duplex.text import Word


class Ear:
    """A recogniser that hears "yes" in everything that is not silent."""

    languages = frozenset({"en"})

    def __init__(self, *_):
        pass

    @staticmethod
    def named(*_):
        return "ear"

    def transcribe(self, clips):
        return [" ".join(w.text for w in words) for words in self.words(clips)]

    def words(self, clips, language="en"):
        return [[Word("yes", 0.5, 0.9)] if np.abs(pcm).max() > 0.01 else [] for pcm in clips]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """The commands with stand-ins for what is slow; gives the folder that they write to."""
    clips = fake_clips(tmp_path / "clips", monkeypatch)
    monkeypatch.setattr(segments, "detector", lambda: None)  # tones are no speech to silero
    frame = {"p50_ms": 5.0, "p95_ms": 6.0, "p99_ms": 7.5, "max_ms": 9.0, "deadline_misses": 0}
    for module in (card, capability, dialogue, codec, subset, ablation, patience):
        monkeypatch.setattr(module, "Clips", lambda *_, **__: clips)
        monkeypatch.setattr(module, "fingerprint", lambda _: "a model", raising=False)
        if hasattr(module, "load_model"):
            monkeypatch.setattr(module, "load_model", lambda *_, **__: fake_loaded_model())
        if hasattr(module, "Recogniser"):
            monkeypatch.setattr(module, "Recogniser", Ear)
        if hasattr(module, "latency"):
            monkeypatch.setattr(module, "latency", SimpleNamespace(measure=lambda *_: {"session": {"session": frame}}))
    return tmp_path


def test_card(stage, capsys):
    assert card.main(["--items", "5", "--silence-seconds", "2", "--skip", "codec", "order_recall", "name_recall",
                      "--json", str(stage / "card.json")]) == 0
    out = capsys.readouterr().out
    result = record.read(stage / "card.json")
    assert json.loads(out.splitlines()[-1])["rows"] == result["rows"]
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["frame_p99_ms"]["met"] is True and rows["frame_p99_ms"]["systems"]["model"]["value"] == 7.5
    assert rows["goes_on"]["systems"]["oracle"]["value"] == 1 and rows["silence"]["systems"]["always talking"]["value"] == 1
    assert rows["silence"]["systems"]["always silent"]["value"] == 0 and rows["silence"]["systems"]["model"]["n"] == 5
    assert rows["right"]["met"] is False and rows["right"]["systems"]["model"]["n"] == 5
    assert "recall" not in rows and "| smooth turn-taking: takes the turn | ≥ 95.0 % |" in out
    assert len(result["details"]["turn"]) == 5 and result["tasks"]["turn"] == {"items": 5, "excluded": []}
    assert {"date", "commit", "machine", "seed", "command"} <= result.keys()


def test_a_card_goes_on_where_it_was_stopped(stage, capsys, monkeypatch):
    arguments = ["--items", "5", "--keep", str(stage / "kept"), "--silence-seconds", "1",
                 "--skip", "codec", "pause", "backchannel", "order_recall", "name_recall"]
    with monkeypatch.context() as broken:
        broken.setattr(card._Bench, "silence", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            card.main([*arguments, "--json", str(stage / "half.json")])
    assert not (stage / "half.json").exists() and len(list((stage / "kept").iterdir())) == 2
    monkeypatch.setattr(card._Bench, "conversations", lambda self, task: 1 / 0)  # no task is played again
    assert card.main([*arguments, "--json", str(stage / "whole.json")]) == 0
    result = record.read(stage / "whole.json")
    assert set(result["kept"]) == {"card turn", "card interruption"} and result["tasks"]["turn"]["items"] == 5
    assert {row["name"]: row for row in result["rows"]}["right"]["systems"]["oracle"]["value"] == 1  # infinite times came through


def test_ablation(stage, capsys):
    assert ablation.main(["--items", "2", "--json", str(stage / "a.json")]) == 0
    result = record.read(stage / "a.json")
    assert [row["name"] for row in result["rows"]] == [c.name for c in ablation.CONDITIONS]
    assert all(row["n"] == 2 and row["right"]["value"] == 0 for row in result["rows"])  # a random model knows nothing
    assert "| voices of training | 2 | 0.0 %" in capsys.readouterr().out
    assert dict(render.tables(result))["The same questions under other conditions"]


def test_patience(stage, capsys):
    assert patience.main(["--items", "2", "--values", "0", "3", "--json", str(stage / "p.json")]) == 0
    rows = record.read(stage / "p.json")["rows"]
    assert [row["patience"] for row in rows] == [0, 3] and rows[0]["recommended"] and not rows[1]["recommended"]
    assert all(row[name]["n"] <= 2 for row in rows for name, _, _ in patience.MEASURES)
    assert "| **0** |" in capsys.readouterr().out
    assert dict(render.tables(record.read(stage / "p.json")))["Patience"]


def test_dialogue_and_the_page(stage, capsys, monkeypatch):
    monkeypatch.setattr(dialogue, "TEMPERATURES", (0.1, 1.0))
    arguments = ["--items", "2", "--dialogues", "1", "--self-seconds", "2", "--silence-seconds", "2",
                 "--out", str(stage / "run" / "dialogue")]
    (stage / "run").mkdir()
    assert dialogue.main([*arguments, "--json", str(stage / "run" / "dialogue.json")]) == 0
    result = record.read(stage / "run" / "dialogue.json")
    assert result["systems"]["oracle"]["behaviour"]["turn.takes_turn"]["value"] == 1
    assert result["systems"]["always talking"]["exact"]["turn.tor"]["value"] == 1
    assert result["systems"]["always silent"]["exact"]["pause.tor"]["value"] == 0
    assert len(result["selftalk"]) == 6 and result["selftalk"][0]["seconds"] == 2
    beside = {row["control"]: row for row in result["selftalk"] if "control" in row}
    assert beside["always silent"]["silent"] == 1 and beside["always talking"]["overlap"]["seconds_per_minute"] > 30
    unasked = {name: system["behaviour"]["silence.spoke"] for name, system in result["systems"].items()}
    assert unasked["always talking"]["value"] == 1 and unasked["tiny"]["n"] == 2
    assert all(unasked[name]["value"] == 0 for name in ("always silent", "VAD end-pointer", "oracle"))
    names = {path.parent.parent.name for path in (stage / "run" / "dialogue" / "oracle").glob("*/*/output.json")}
    assert names == {"synthetic_pause_handling", "synthetic_backchannel", "synthetic_turn_taking", "synthetic_user_interruption",
                     "user_interruption", "user_backchannel", "talking_to_other", "background_speech"}
    capsys.readouterr()
    assert report.main([str(stage / "run"), "--against", str(stage / "run")]) == 0
    page = (stage / "run" / "index.html").read_text()
    assert page.count("<audio") >= 8 and "Full-Duplex-Bench, corrected" in page and "never with a public leaderboard" in page
    assert "<th>oracle</th>" in page
    assert (stage / "run" / "dialogue" / "tiny" / "user_interruption" / "0" / "clean_output.json").is_file()
    assert page.count("<img") == 1 and "Against the earlier run" in page
    assert all((stage / "run" / name.split("'")[0]).is_file() for name in page.split("src='")[1:] if not name.startswith("data:"))


def test_items_for_somebody_else_are_scored_when_they_come_back(stage, capsys):
    arguments = ["--items", "2", "--tasks", "turn", "--no-recogniser", "--dialogues", "0"]
    assert dialogue.main([*arguments, "--write-items", str(stage / "items")]) == 0
    assert dialogue.main([*arguments, "--system", f"folder:{stage / 'items'}", "--json", str(stage / "d.json")]) == 2
    error = capsys.readouterr().err
    assert "2 of 2 items could not be scored" in error and "output.wav" in error
    assert len(record.read(stage / "d.json")["systems"]["items"]["tasks"]["turn"]["excluded"]) == 2  # counted all the same


def test_silence_of_somebody_else_is_scored_when_it_comes_back(stage, capsys):
    arguments = ["--items", "7", "--tasks", "silence", "--silence-seconds", "2", "--dialogues", "0"]
    assert dialogue.main([*arguments, "--write-items", str(stage / "items")]) == 0
    assert "--silence-seconds 2" in capsys.readouterr().out
    inputs = sorted(stage.glob("items/silence/*/input.wav"))
    assert len(inputs) == 7
    for path in inputs:
        pcm = read_audio(path)[0]
        spoken = tone(1.0, amplitude=0.3) if path.parent.name == "3" else np.zeros(24_000)
        write_wav(path.parent / "output.wav", np.pad(spoken, (0, len(pcm) - len(spoken))))
        words = [{"text": "hm", "timestamp": [0.5, 0.6]}] if path.parent.name == "5" else []
        (path.parent / "output.json").write_text(json.dumps({"chunks": words}))
    assert dialogue.main([*arguments, "--system", f"folder:{stage / 'items'}", "--json", str(stage / "d.json")]) == 0
    found = record.read(stage / "d.json")["systems"]["items"]["behaviour"]["silence.spoke"]
    assert found["n"] == 7 and found["value"] == pytest.approx(2 / 7, abs=1e-5)  # by its sound, and by a word
    assert "| speaks unasked where nobody does ↓ | 28.6 %" in capsys.readouterr().out
    (inputs[0].parent / "output.wav").unlink()
    assert dialogue.main([*arguments, "--system", f"folder:{stage / 'items'}"]) == 2
    assert "1 of 7 items could not be scored" in capsys.readouterr().err


def test_capabilities(stage, capsys, monkeypatch):
    monkeypatch.setattr(capability.tasks, "LATER", 2.0)  # half a minute of waiting is for trained models
    assert capability.main(["--items", "3", "--json", str(stage / "c.json")]) == 0
    rows = {row["name"]: row for row in record.read(stage / "c.json")["rows"]}
    assert rows["context"]["systems"]["model"].keys() == {"own text", "recogniser"} and "note" not in rows["context"]
    assert rows["context"]["systems"]["oracle"]["own text"]["value"] == 1
    assert not rows["multimodal"]["supported"] and not rows["languages"]["supported"]  # no engine here speaks French
    assert rows["sound generation"]["systems"]["oracle"]["played"]["value"] == 1
    assert rows["sound generation"]["systems"]["model"]["played"]["value"] == 0
    assert rows["speech style"]["systems"]["oracle"]["own text"]["value"] == 1 and rows["interaction"]["systems"]["oracle"]
    assert "| multimodal | sees images or video | not supported: " in capsys.readouterr().out


class _Polyglot(Ear):
    """Hears in each language what it was told."""

    languages = frozenset({"en", "fr", "es"})

    def __init__(self, said):
        self.said, self.asked = said, []

    def words(self, clips, language="en"):
        self.asked.append((language, len(clips)))
        return [[Word(word, 0.0, 0.1) for word in self.said[language].split()] for _ in clips]


def test_answers_are_heard_in_their_own_language():
    quiet, answers = np.zeros(13 * 1920, np.float32), (("au revoir, à bientôt.", "fr"), ("de nada.", "es"), ("yes.", ""),
                                                       ("merci.", "fr"))
    items = [Item(f"languages/{n}", "turn", "foreign", "nobody", n, quiet, {"turn": (0.1, 0.4)}, "", (right,),
                  ideal=(Line(0.5, f"{right}|{mark}" if mark else right),)) for n, (right, mark) in enumerate(answers)]
    responses = [Response(item.user) for item in items]
    function = next(f for f in capability.FUNCTIONS if f.name == "languages")
    ear = _Polyglot({"fr": "Au revoir ! A bientôt.", "es": "De nada,", "en": "no"})
    found = capability.judge(function, items, responses, ear)
    assert ear.asked == [("en", 1), ("fr", 2), ("es", 1)] and found["recogniser"].value == 0.5 and found["recogniser"].n == 4
    assert capability.judge(function, items, [*responses[:3], Response(items[3].user, error="no")], ear)["recogniser"].n == 3
    assert capability.judge(function, items, responses, Ear()).keys() == {"own text"}  # it knows English alone


def test_an_english_recogniser_and_an_oracle_without_a_voice_are_named(stage, monkeypatch):
    clips = capability.Clips()
    monkeypatch.setattr(clips, "foreigners", lambda language: clips.speakers)
    function = next(f for f in capability.FUNCTIONS if f.name == "languages")
    part = capability._probed(function, controls_and_model(clips), clips, SimpleNamespace(items=4, seed=0), Ear())
    assert part["row"]["note"] == "by text alone: the recogniser does not know es and fr"
    systems = part["row"]["systems"]
    assert systems["oracle"]["own text"]["n"] == 0 and systems["always silent"]["own text"]["n"] == 4
    row = {"name": "languages", "what": "answers in French", "supported": True, **part["row"]}
    line = capability.table({"rows": [row]}).splitlines()[-1]
    assert line.startswith("| languages | answers in French (by text alone: ") and line.endswith("| — |")


def controls_and_model(clips):
    return [ModelSystem(fake_loaded_model(), "model"), *controls(clips)]


def test_controls_show_what_is_heard_of_them():
    def sure(value):
        return {"value": value, "low": value, "high": value, "n": 9}

    row = {"name": "sound generation", "what": "beeps", "supported": True, "chance": 0.4, "systems": {
        "model": {"own text": sure(0.8), "played": sure(0.2)}, "always talking": {"own text": sure(0.0), "played": sure(0.16)},
        "always silent": {"own text": sure(0.0)}, "oracle": {"own text": sure(1.0), "played": sure(1.0)}}}
    line = capability.table({"rows": [row]}).splitlines()[-1]
    assert line.endswith("| 40.0 % | 0.0 % | 0.0 % / 16.0 % | — | 100.0 % / 100.0 % |")


def test_tones_are_told_apart():
    beeps = np.concatenate([np.zeros(2400), *[np.concatenate([tone(0.3, 880), np.zeros(2880)]) for _ in range(3)]])
    assert len(capability.tones(beeps.astype(np.float32))) == 3
    scale = np.concatenate([tone(0.3, hertz) for hertz in (262, 330, 392)])
    found = capability.tones(scale)
    assert len(found) == 3 and found == sorted(found)
    assert capability.tones(np.random.default_rng(0).standard_normal(24_000).astype(np.float32) * 0.1) == []


def test_codec(stage, capsys):
    pytest.importorskip("pystoi", reason="pip install -e '.[eval]'")
    assert codec.main(["--clips", "3", "--json", str(stage / "codec.json")]) == 0
    voices = record.read(stage / "codec.json")["voices"]
    assert voices["system"]["nominal_bits_per_s"] == 12.5 * 4 * 6 and voices["users"]["stoi"]["n"] == 3
    assert len(voices["system"]["use"]) == 4 and voices["system"]["wer_points"]["value"] == 0  # the ear hears both alike


def test_more_than_five_per_cent_left_out_fails():
    record.refuse_excluded({"turn": {"items": 100, "excluded": ["x"] * 5}})
    with pytest.raises(InputError, match="turn: 6 of 100 items.*the first: x"):
        record.refuse_excluded({"turn": {"items": 100, "excluded": ["x"] * 6}})


def test_bad_options_are_one_line(stage, capsys):
    for command, arguments in ((card, ["--json", str(stage / "no" / "x.json")]), (report, [str(stage / "nowhere")]), (report, []),
                               (dialogue, ["--system", "http://x", "--items", "1", "--tasks", "turn"])):
        assert command.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") or error.splitlines()[-1].startswith("error: ")


def test_recogniser_puts_words_back_into_their_clips(monkeypatch):
    class Model:
        calls, languages = 0, []

        def transcribe(self, sound, language, **_):
            Model.calls += 1
            Model.languages.append(language)
            loud = np.abs(np.pad(sound, (0, -len(sound) % 1600))).reshape(-1, 1600).max(1) > 0.05  # tenths of a second
            starts = [n for n in range(len(loud)) if loud[n] and (n == 0 or not loud[n - 1])]
            words = [SimpleNamespace(word=f" w{k}", start=n / 10, end=n / 10 + 0.3) for k, n in enumerate(starts)]
            return [SimpleNamespace(words=words)], None

    ear = object.__new__(recogniser.Recogniser)
    ear._model = Model()
    silence = np.zeros(24_000, np.float32)
    spoken = np.concatenate([silence, tone(0.8, amplitude=0.3), silence])
    twice = np.concatenate([spoken, silence, silence, spoken])
    found = ear.words([spoken, silence, twice])
    assert [len(words) for words in found] == [1, 0, 2] and Model.calls == 1
    assert found[0][0].start == pytest.approx(1.0, abs=0.15)
    assert [w.start for w in found[2]] == [pytest.approx(1.0, abs=0.15), pytest.approx(5.8, abs=0.25)]
    ear.words([spoken], "fr")
    assert Model.languages == ["en", "fr"]


def test_numbers_of_two_runs_are_compared():
    def one(value, low, high):
        return {"card": {"benchmark": "card", "rows": [{"name": "right", "systems": {"model": {
            "value": value, "low": low, "high": high, "n": 9}, "oracle": {"value": 1, "low": 1, "high": 1, "n": 9}}}]}}

    text = report.comparison(one(0.2, 0.1, 0.3), one(0.6, 0.5, 0.7))
    assert "| card / rows / right / systems / model | 0.2 | 0.6 | +0.4 | apart |" in text and "oracle" not in text
    assert "no number in common" in report.comparison({}, one(0.6, 0.5, 0.7))


def test_a_cell_says_how_sure_it_is():
    assert record.cell({"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}, "%") == "50.0 % [40.0, 60.0] (n = 9)"
    assert record.cell({"value": None, "low": 0.4, "high": None, "n": 9}, "s") == "never (n = 9)"
    assert record.cell(None) == record.cell({"value": None, "low": None, "high": None, "n": 0}) == "—"
    assert render.provenance({"date": "d", "commit": "c", "machine": "m", "seed": 0}).startswith("*d, ")


def test_rounded_weights_converse_beside_the_exact_ones(stage, capsys, monkeypatch):
    asked = []

    def loaded(source, backend):
        asked.append(backend)
        return replace(fake_loaded_model(), backend=backend)

    monkeypatch.setattr(dialogue, "load_model", loaded)
    arguments = "--items 1 --tasks turn --no-recogniser --dialogues 0 --no-controls --backend native native-int8".split()
    assert dialogue.main([*arguments, "--json", str(stage / "d.json")]) == 0
    result = record.read(stage / "d.json")
    assert result["backends"] == {"tiny, native": "native", "tiny, native-int8": "native-int8"}
    assert asked == ["native", "native-int8"] and list(result["systems"]) == list(result["backends"])
    assert "| measure | tiny, native | tiny, native-int8 |\n" in capsys.readouterr().out
    assert dialogue.main(["--backend", "native-int3"]) == 2
