"""Items and scores of the duplex bench, with tones for voices: the oracle passes, the simple controls fail as they must."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from fake_clips import fake_clips

from benchmarks import segments, tasks
from benchmarks.folders import (
    V15,
    FolderSystem,
    annotation,
    cleaned,
    people,
    read_chunks,
    window,
    write_clean_outputs,
    write_items,
    write_outputs,
)
from benchmarks.items import core, draw, listening, openings
from benchmarks.protocol import latencies, public_scores
from benchmarks.record import refuse_excluded
from benchmarks.scoring import excluded, score, values
from benchmarks.systems import ModelSystem, Response, controls
from duplex.audio import read_audio, write_wav
from duplex.errors import InputError
from duplex.testing import fake_loaded_model, tiny_lm_config
from duplex.units import FRAME_SAMPLES


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        clips = fake_clips(tmp_path_factory.mktemp("clips"), patch)
        patch.setattr(segments, "detector", lambda: None)  # tones are no speech to silero
        items = {task: tasks.make(clips, task, 4, 0) for task in tasks.TASKS}
        systems = {control.name: control for control in controls(clips)}
        yield clips, items, systems


def scores_of(world, system, task):
    _, items, systems = world
    return [score(item, response) for item, response in zip(items[task], systems[system].respond(items[task]), strict=True)]


def test_items_repeat_and_do_not_depend_on_how_many_there_are(world):
    clips, items, _ = world
    again = tasks.make(clips, "interruption", 2, 0)
    assert all(np.array_equal(a.user, b.user) and a.marks == b.marks for a, b in zip(again, items["interruption"], strict=False))
    assert not np.array_equal(tasks.make(clips, "interruption", 1, 1)[0].user, again[0].user)


def test_items_are_whole_frames_with_their_marks_inside(world):
    for task, chosen in world[1].items():
        for item in chosen:
            assert item.task == task and len(item.user) % FRAME_SAMPLES == 0 and np.abs(item.user).max() <= 1
            assert all(0 <= start < end <= item.seconds + 0.08 for start, end in item.marks.values())
            assert bool(item.expected) == (task in ("turn", "pause", "interruption", "name_recall", "order_recall"))


def test_recall_waits_half_a_minute_and_its_answer_is_said_nowhere_before(world):
    for item in world[1]["name_recall"]:
        assert item.marks["turn"][0] > tasks.LATER and item.context
        assert item.expected[0].split()[-1].strip(".") in item.context


def test_a_pause_never_follows_what_could_be_a_whole_turn(world):
    for item in world[1]["pause"]:
        start, end = item.marks["pause"]
        assert 0.5 <= end - start <= 1.1 and item.marks["turn"][0] < start < end < item.marks["turn"][1]


def test_the_oracle_is_right_and_well_timed(world):
    for name in ("takes_turn", "right"):
        assert all(values(scores_of(world, "oracle", "turn"), name)), name
    assert max(values(scores_of(world, "oracle", "turn"), "response_s")) < 0.6
    assert not any(values(scores_of(world, "oracle", "pause"), "takes_over"))
    broken = scores_of(world, "oracle", "interruption")
    assert all(values(broken, "speaking")) and all(values(broken, "right")) and max(values(broken, "stop_s")) < 0.6
    for task in ("backchannel", "aside", "background"):
        assert all(values(scores_of(world, "oracle", task), "goes_on")), task
    assert all(values(scores_of(world, "oracle", "name_recall") + scores_of(world, "oracle", "order_recall"), "right"))


def test_silence_and_endless_talk_fail(world):
    silent = scores_of(world, "always silent", "turn")
    assert not any(values(silent, "takes_turn")) and set(values(silent, "response_s")) == {math.inf}
    assert values(scores_of(world, "always silent", "interruption"), "stop_s") == []  # it cannot be interrupted
    assert all(values(scores_of(world, "always talking", "turn"), "over_user"))
    assert not any(values(scores_of(world, "always talking", "turn"), "takes_turn"))
    assert set(values(scores_of(world, "always talking", "interruption"), "stop_s")) == {math.inf}


def test_an_end_pointer_takes_pauses_for_ends_and_stops_for_backchannels(world):
    found = scores_of(world, "VAD end-pointer", "pause")
    longer = [s["takes_over"] for s, item in zip(found, world[1]["pause"], strict=True)
              if item.marks["pause"][1] - item.marks["pause"][0] > 0.95]
    shorter = [s["takes_over"] for s, item in zip(found, world[1]["pause"], strict=True)
               if item.marks["pause"][1] - item.marks["pause"][0] < 0.6]
    assert all(longer) and not any(shorter)
    assert all(values(scores_of(world, "VAD end-pointer", "turn"), "takes_turn"))


def test_public_scores_of_the_controls(world):
    _, items, systems = world
    for task, silent, talking in (("pause", 0, 1), ("turn", 0, 1), ("interruption", 0, 1), ("report", 0, 1)):
        for name, expected in (("always silent", silent), ("always talking", talking)):
            responses = systems[name].respond(items[task])
            triples = [(item, r, r.words) for item, r in zip(items[task], responses, strict=True)]
            assert public_scores(task, triples, exact=True)["tor"].value == expected, (task, name)
    oracle = systems["oracle"].respond(items["interruption"])
    triples = [(item, r, r.words) for item, r in zip(items["interruption"], oracle, strict=True)]
    assert public_scores("interruption", triples, exact=False)["latency"].value < 0.7
    assert latencies(triples, exact=False)["stop"].value < 0.6


def test_outputs_come_back_from_their_folders(world, tmp_path):
    _, items, systems = world
    for task, version in (("turn", "v1"), ("pause", "v1"), ("interruption", "v1.5")):
        responses = systems["oracle"].respond(items[task])
        write_items(tmp_path, items[task], version)
        write_outputs(tmp_path, items[task], responses, [r.words for r in responses], version)
        for item, back, there in zip(items[task], FolderSystem(tmp_path).respond(items[task]), responses, strict=True):
            assert not back.error and len(back.pcm) == len(item.user)
            assert [w.text for w in back.words] == [w.text for w in there.words if w.start < window(item, version)]
    folder = next(tmp_path.glob("synthetic_turn_taking/*"))
    assert read_audio(folder / "input.wav").shape == read_audio(folder / "output.wav").shape


def test_items_of_v15_come_with_a_clean_reference(world, tmp_path):
    """The files that the public scorers of v1.5 read, words with times in all of them (they compare their spans)."""
    _, items, systems = world
    for task, name in V15.items():
        chosen, oracle = items[task], systems["oracle"]
        clean = [cleaned(item) for item in chosen]
        responses, without = oracle.respond(chosen), oracle.respond(clean)
        write_items(tmp_path, chosen, "v1.5")
        write_outputs(tmp_path, chosen, responses, [r.words for r in responses], "v1.5")
        write_clean_outputs(tmp_path, chosen, without, [r.words for r in without])
        for item, bare, reply in zip(chosen, clean, without, strict=True):
            folder, (start, end) = tmp_path / name / str(item.seed), item.marks["event"]
            sounds = {n: read_audio(folder / f"{n}.wav")[0] for n in ("input", "clean_input", "output", "clean_output")}
            assert len({len(pcm) for pcm in sounds.values()}) == 1
            words = {n: json.loads((folder / f"{n}.json").read_text())["chunks"] for n in sounds}
            assert all(len(c["timestamp"]) == 2 and None not in c["timestamp"] for chunks in words.values() for c in chunks)
            event = slice(round(start * 24_000) + 100, round(end * 24_000) - 100)
            assert np.abs(item.user[event]).max() > 0.005 + np.abs(bare.user[event]).max()  # faint noise stays
            before = slice(0, round((start - 0.1) * 24_000))
            assert np.array_equal(item.user[before], bare.user[before])
            assert len(words["clean_input"]) < len(words["input"])
            assert words["input"][: len(words["clean_input"])] == words["clean_input"]
            assert words["input"][-1]["timestamp"][0] >= start - 1e-3
            # Undisturbed, the oracle goes on to the end of its answer.
            assert words["clean_output"] and (task != "interruption" or reply.words[-1].start > start + 0.3)
            assert json.loads((folder / "metadata.json").read_text())["timestamps"] == [start, end]


def test_outputs_that_cannot_be_scored_say_why(world, tmp_path):
    item = world[1]["turn"][0]
    system = FolderSystem(tmp_path)
    assert "no such file" in system.respond([item])[0].error
    write_items(tmp_path, [item], "v1")
    folder = next(tmp_path.glob("*/0"))
    write_wav(folder / "output.wav", np.zeros(24_000, np.float32))
    assert "shorter than its input" in system.respond([item])[0].error
    write_wav(folder / "output.wav", item.user, 12_000)  # a header with half of the rate
    assert "longer than its input" in system.respond([item])[0].error
    write_wav(folder / "output.wav", item.user)
    assert not system.respond([item])[0].error
    (folder / "output.json").write_text("{}")
    assert "output.json" in FolderSystem(tmp_path).respond([item])[0].error
    system = FolderSystem(tmp_path)  # which tells its words in some items: then it must in all
    (folder / "output.json").unlink()
    assert "output.json: cannot be read (No such file" in system.respond([item])[0].error
    other = world[1]["turn"][1]
    (folder / "turn_taking.json").write_text(json.dumps(annotation(other, "v1")["turn_taking.json"]))
    assert "belongs to another item" in FolderSystem(tmp_path).respond([item])[0].error
    (folder / "turn_taking.json").unlink()
    assert "no annotation" in FolderSystem(tmp_path).respond([item])[0].error
    assert "no annotation of its turn" in score(replace(item, marks={}), Response(item.user))["error"]
    assert "no annotation of its event" in score(replace(world[1]["aside"][0], marks=item.marks), Response(
        world[1]["aside"][0].user))["error"]
    assert score(item, FolderSystem(tmp_path).respond([item])[0]).keys() == {"error"}
    assert "not finite" in score(item, Response(np.full_like(item.user, np.nan)))["error"]
    assert "samples came back" in score(item, Response(item.user[:100]))["error"]
    with pytest.raises(InputError):
        FolderSystem(tmp_path / "nowhere")
    with pytest.raises(InputError):
        read_chunks(tmp_path / "none.json")


def test_a_model_without_a_stream_is_named_in_each_item(world):
    deaf = fake_loaded_model(config=tiny_lm_config(n_q=4, delays=(0, 0, 1, 1, 1)))  # it speaks four codebooks and hears none
    responses = ModelSystem(deaf).respond(world[1]["turn"])
    assert len(responses) == 4 and all("0 user codebooks" in r.error and r.error.startswith("turn/") for r in responses)
    counts = {"turn": {"items": 4, "excluded": excluded([score(i, r) for i, r in zip(world[1]["turn"], responses, strict=True)])}}
    assert len(counts["turn"]["excluded"]) == 4
    with pytest.raises(InputError, match="4 of 4 items could not be scored.*a conversation needs both"):
        refuse_excluded(counts)


def test_people_nod_where_the_clauses_end(world):
    item = world[1]["report"][0]
    shares = people(item)
    assert sum(shares) == pytest.approx(1) and len(shares) == int(item.seconds / 0.2) + 1
    assert item.ideal and shares[int(item.ideal[0].start / 0.2)] > 3 * min(shares)


def test_every_core_question_has_its_answers():
    import random

    rng = random.Random(0)
    for name in core():
        exchange, right = draw(rng, name)
        assert exchange.system in right
    assert any(len(found) > 1 for found in openings()["story"].values())
    assert listening("okay.")[1] is None and listening(" ".join(["once upon a time"] * 20))[1] > 2
