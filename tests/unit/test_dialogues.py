"""Dialogues: what happens at which rate, and whether labels lie where the sound is."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from tones import HELD_OUT_VOICE

from duplex.units import SAMPLE_RATE, seconds_to_samples
from train.corpus.bank import Bank
from train.corpus.dialogue import Composer, Phenomena, Plan, render, written
from train.corpus.render import channel, convolved

CLEAN = Phenomena(quiet_noise=0.0, gain=0.0, noise=0.0, echo=0.0, reverb=0.0, background_speech=0.0)


@pytest.fixture(scope="module")
def bank(bank_folder):
    return Bank(bank_folder)


@pytest.fixture(scope="module")
def composer(bank):
    return Composer(bank, CLEAN, "train")


def plans(composer, phenomena, count=60, seconds=60.0):
    composer.phenomena = phenomena
    return [composer.plan(str(n), seconds) for n in range(count)]


def test_a_recipe_may_draw_a_scenario_more_often(bank):
    shares = []
    for weights in ({}, {"addition": 300.0}):
        made = Composer(bank, CLEAN, "train", weights)
        said = [text for n in range(20) for text in made.plan(str(n), 60.0).texts]
        shares.append(np.mean([" plus " in text for _, text in said]))
    assert shares[1] > 2 * shares[0] and shares[1] > 0.3


def events(found, *kinds):
    return [e for p in found for e in p.events if e["kind"] in kinds]


def near(count, total, rate):
    """Whether a count fits a rate, within four standard deviations."""
    return abs(count - rate * total) <= 4 * np.sqrt(total * rate * (1 - rate)) + 1


BARGES = ("barge_in_stop", "barge_in_request", "barge_in_correction")
LATE = 50.0  # events behind this may have been cut with the dialogue's end


def test_dialogues_are_a_function_of_their_seed(bank):
    composer = Composer(bank, Phenomena(), "train")
    one, two, other = composer.compose("7", 30.0), composer.compose("7", 30.0), composer.compose("8", 30.0)
    assert np.array_equal(one.user, two.user) and np.array_equal(one.system, two.system)
    assert (one.system_words, one.events) == (two.system_words, two.events)
    assert not np.array_equal(one.user, other.user)
    assert len(one.system) == len(one.user) == 30 * SAMPLE_RATE


def test_each_split_has_its_own_voices(bank):
    for split, held_out in (("train", False), ("test", True)):
        composer = Composer(bank, Phenomena(background_speech=6.0), split)
        heard = {e["speaker"] for p in plans(composer, composer.phenomena, 15) for e in p.events if "speaker" in e}
        assert heard and all((name.partition(":")[2] == HELD_OUT_VOICE) == held_out for name in heard)


def test_plans_are_quick_and_speak_of_everything(composer):
    from time import process_time

    began = process_time()
    found = plans(composer, replace(CLEAN, background_speech=1.0, aside=0.3, hesitation=0.3, barge_in=0.5), 100)
    assert (process_time() - began) / 100 < 0.02
    kinds = Counter(e["kind"] for e in events(found, *{e["kind"] for p in found for e in p.events}))
    assert set(kinds) >= {"user_turn", "system_turn", "gap", "overlap", "user_pause", "user_hesitation", "user_backchannel",
                          "system_backchannel", "long_silence", "aside", "background_speech", "sound", "yielded", *BARGES}
    asked = [e for e in events(found, "user_turn") if "name" in e["text"]]
    assert asked and any(e.get("unintelligible") for e in events(found, "user_turn"))


def test_what_is_switched_off_does_not_happen(composer):
    off = replace(CLEAN, barge_in=0.0, backchannel=0.0, system_backchannel=0.0, pause=0.0, hesitation=0.0, long_silence=0.0,
                  aside=0.0, at_once=0.0)
    found = plans(composer, off, 30)
    never = {*BARGES, "yielded", "user_backchannel", "system_backchannel", "user_pause", "user_hesitation", "long_silence",
             "aside", "background_speech", "gain", "noise", "echo", "reverb"}
    assert not events(found, *never)


def test_shares_of_dialogues_follow_their_rates(composer):
    for kind in ("gain", "noise", "echo", "reverb"):
        found = plans(composer, replace(CLEAN, **{kind: 0.3}), 150, 8.0)
        assert near(len(events(found, kind)), 150, 0.3), kind


def test_levels_stay_in_their_ranges(composer):
    phenomena = replace(CLEAN, gain=1.0, noise=1.0, echo=1.0, reverb=1.0)
    found = plans(composer, phenomena, 60, 8.0)
    for kind, field, limits in (("gain", "db", phenomena.gain_db), ("noise", "db", phenomena.noise_db),
                                ("echo", "scale", phenomena.echo_scale), ("echo", "delay", phenomena.echo_delay),
                                ("reverb", "seconds", phenomena.reverb_seconds)):
        values = [e[field] for e in events(found, kind)]
        assert len(values) == 60 and limits[0] <= min(values) and max(values) <= limits[1]
        assert max(values) - min(values) > 0.7 * (limits[1] - limits[0])


def test_interruptions_follow_their_rates(composer):
    found = plans(composer, replace(CLEAN, barge_in=0.3, backchannel=0.2, stop_share=0.25, correction_share=0.5), 150)
    counts = Counter(e["kind"] for e in events(found, *BARGES, "user_backchannel"))
    barges = sum(counts[k] for k in BARGES)
    assert near(barges, barges + counts["user_backchannel"], 0.6)
    assert near(counts["barge_in_stop"], barges, 0.25)
    # Only some scenarios have a correction, so its share is an upper bound.
    assert 10 < counts["barge_in_correction"] <= 0.5 * barges + 4 * np.sqrt(barges)


def test_pauses_and_hesitations_follow_their_rates(composer):
    found = plans(composer, replace(CLEAN, pause=0.25, hesitation=0.15, barge_in=0.0, backchannel=0.0), 100)
    turns = [e for e in events(found, "user_turn") if len(e["text"].split()) >= 4 and "unintelligible" not in e]
    assert near(len(events(found, "user_pause")), len(turns), 0.4)
    assert near(len(events(found, "user_hesitation")), len(turns), 0.15)


def test_gaps_and_silences_follow_their_rates(composer):
    p = replace(CLEAN, at_once=1.0, long_silence=0.2, aside=0.0, barge_in=0.0)
    found = plans(composer, p, 100)
    offsets = [e["offset"] for e in events(found, "gap", "overlap") if e["to"] == "user"]
    silences = [e for e in events(found, "long_silence") if e["start"] < LATE]
    assert abs(np.mean(offsets) - p.floor_offset) < 0.06 and abs(np.std(offsets) - p.floor_spread) < 0.08
    assert 0.15 < np.mean([o < 0 for o in offsets]) < 0.40
    assert all(p.silence_seconds[0] <= e["end"] - e["start"] <= p.silence_seconds[1] for e in silences)
    # Every transfer within a topic is at once, too, so the share over all of them is somewhat less.
    assert 0.1 < len(events(found, "long_silence")) / (len(offsets) + len(silences)) < 0.25
    answers = [e["offset"] for e in events(found, "gap") if e["to"] == "system"]
    assert abs(np.mean(answers) + 0.04 - p.response_gap) < 0.02 and min(answers) > 0.119


def test_background_speech_comes_as_often_as_asked(composer):
    found = plans(composer, replace(CLEAN, background_speech=1.5, long_silence=0.0), 100)
    rate = len(events(found, "background_speech")) / 100
    assert 1.0 < rate <= 1.8  # some find no free place


def rms(track, start, end):
    part = track[seconds_to_samples(start) : seconds_to_samples(end)]
    return float(np.sqrt(np.mean(part**2))) if len(part) else 0.0


def test_every_label_lies_on_its_sound(bank):
    composer = Composer(bank, replace(CLEAN, barge_in=0.8, backchannel=0.1, pause=0.3, hesitation=0.3, aside=0.2,
                                      background_speech=3.0), "train", {"name_sound": 6.0})
    counts = Counter()
    for seed in range(16):
        plan = composer.plan(f"sound {seed}", 50.0)
        dialogue = render(bank, plan, 50.0)
        loud = 0.1 * plan.gain
        for track, words in ((dialogue.system, dialogue.system_words), (dialogue.user / plan.gain, dialogue.user_words)):
            for word in words:
                if word.end < 49.9 and word.end - word.start > 0.15:
                    counts["word"] += 1
                    assert rms(track, word.start + 0.03, word.end - 0.05) > 0.005, word
        own = [(e["start"], e["end"]) for e in dialogue.events if e["kind"] in ("user_hesitation", "background_speech")]
        quiet = {e["start"] for e in dialogue.events if e.get("manner") == "quiet"}
        mumbled = {e["start"] for e in dialogue.events if e.get("unintelligible")}
        for e in dialogue.events:
            start, end = e["start"], e["end"]
            if end > 49.8 or start in quiet:
                continue
            counts[e["kind"]] += 1
            if e["kind"] == "user_pause" and not any(s < end and start < x for s, x in own):
                assert rms(dialogue.user, start + 0.02, end - 0.02) < 1e-3 * loud
            elif e["kind"] == "long_silence":
                assert rms(dialogue.user, start + 0.03, end - 0.05) == rms(dialogue.system, start + 0.03, end - 0.05) == 0
            elif e["kind"] in ("user_turn", "user_backchannel", "aside", "sound", "user_hesitation", *BARGES):
                assert rms(dialogue.user, start + 0.03, start + 0.15) > loud * (0.3 if start in mumbled else 1.0)
            elif e["kind"] == "background_speech":
                assert rms(dialogue.user, start + 0.03, start + 0.15) > 0.005 * plan.gain
            elif e["kind"] == "gap" and not any(s < end and start < x for s, x in own):
                other = dialogue.user if e["to"] == "system" else dialogue.system
                assert rms(other, start + 0.03, end) < 1e-3
            elif e["kind"] == "overlap":
                assert e["offset"] < 0
                assert rms(dialogue.user, start + 0.03, start + 0.15) > loud * (0.3 if start in mumbled else 1.0)
            elif e["kind"] == "yielded":
                low, high = composer.phenomena.yield_after
                assert low - 0.01 <= end - start <= high + 0.01
                assert rms(dialogue.system, end + 0.001, end + 0.15) < 1e-4
            elif e["kind"] in ("system_turn", "system_backchannel"):
                assert rms(dialogue.system, start + 0.03, start + 0.15) > 0.1
                assert start * 12.5 == pytest.approx(round(start * 12.5))
    assert counts["word"] > 300 and counts["yielded"] > 5
    assert all(counts[k] for k in ("user_pause", "user_hesitation", "long_silence", "background_speech", "aside", "overlap",
                                   "sound"))


def test_a_late_question_comes_late(composer):
    found = plans(composer, CLEAN, 60, 120.0)
    late = 0
    for plan in found:
        given = [e for e in plan.events if e["kind"] == "system_turn" and e["text"].lower().startswith("nice to meet you")]
        asked = [e for e in plan.events if e["kind"] == "system_turn" and e["text"].startswith("Your name is")]
        for answer in asked:
            before = [g for g in given if g["end"] <= answer["start"]]
            assert before, "a name is asked for that was never given"
            assert answer["text"].rstrip(".").split()[-1] == before[-1]["text"].rstrip(".").split()[-1]
            late += answer["start"] - before[-1]["end"] >= 30.0
    assert late >= 3


def test_echo_is_the_system_later_and_softer():
    rng = np.random.default_rng(0)
    system = rng.standard_normal(SAMPLE_RATE).astype(np.float32) * 0.1
    heard = channel(Plan(echo=(0.2, 0.25)), np.zeros_like(system), system)
    shift = SAMPLE_RATE // 4
    assert np.abs(heard[:shift]).max() < 1e-5
    share = np.dot(heard[shift:], system[:-shift]) / np.dot(system[:-shift], system[:-shift])
    assert share == pytest.approx(0.2, abs=0.03)


def test_noise_has_the_level_asked_for():
    speech = np.sin(np.arange(SAMPLE_RATE) * 0.1).astype(np.float32) * 0.2
    for db in (-20.0, 0.0):
        noise = channel(Plan(snr_noise=db), speech, np.zeros_like(speech)) - speech
        assert 20 * np.log10(np.std(noise) / np.std(speech)) == pytest.approx(db, abs=1.5)


def test_block_convolution_is_plain_convolution():
    rng = np.random.default_rng(0)
    samples, kernel = rng.standard_normal(5000).astype(np.float32), rng.standard_normal(300).astype(np.float32)
    assert np.allclose(convolved(samples, kernel), np.convolve(samples, kernel)[:5000], atol=1e-3)


def test_written_form():
    assert written("nice to meet you, anna. i am here.") == "Nice to meet you, Anna. I am here."
