"""What is said and who says it: scenarios, splits, speakers, the utterance bank."""

import random
import re

import numpy as np
import pytest
from tones import ToneEngine, requests

from duplex.units import SAMPLE_RATE
from train.corpus import scripts
from train.corpus.bank import Bank, Request, fill
from train.corpus.exchange import LANGUAGES, MUMBLED, SOUNDS, STYLES, key, split_key
from train.corpus.lines import QUOTA, speaker_lines, system_requests, user_requests, with_corrections
from train.corpus.sounds import SoundEngine
from train.corpus.speakers import HELD_OUT, SPEAKERS, of_split
from train.corpus.style import styled
from train.corpus.voices import Utterance


class RecordingPicker(scripts.Picker):
    """Keeps what was picked."""

    def __init__(self, rng, split):
        super().__init__(rng, split)
        self.picked = set()

    def __call__(self, kind, options):
        option = super().__call__(kind, options)
        if any(self.held_out(kind, o) for o in options):
            self.picked.add((kind, option))
        return option


def test_no_template_and_no_argument_of_one_split_is_in_the_other():
    picked = {}
    for split in ("train", "test"):
        pick = RecordingPicker(random.Random(1), split)
        for name in scripts.names():
            for _ in range(150):
                scripts.instance(pick.rng, pick, name)
        picked[split] = pick.picked
    assert not picked["train"] & picked["test"]
    kinds = {kind for kind, _ in picked["test"]}
    assert kinds == {kind for kind, _ in picked["train"]} and {"sum", "repeat", "order"} <= kinds and len(kinds) >= 8


def test_there_are_twenty_scenarios_and_their_lines_can_be_spoken():
    assert len(scripts.names()) >= 20
    marks = {"", MUMBLED, *STYLES, *LANGUAGES}
    for name in scripts.names():
        for split in ("train", "test"):
            rng = random.Random(2)
            for _ in range(40):
                for e in with_corrections(scripts.instance(rng, scripts.Picker(rng, split), name)):
                    assert e.user_mark in marks and e.sound in {"", *SOUNDS}
                    assert e.system_mark in {"", "beep", "scale", *LANGUAGES}
                    assert e.user and e.system and not any(c.isdigit() or c == "|" for c in e.user + e.system)


def test_sums_are_right():
    rng = random.Random(0)
    for make in (scripts.addition, scripts.subtraction):
        for _ in range(200):
            (exchange,) = make(rng, scripts.Picker(rng, "train"))
            a, b, c = [scripts.NUMBERS.index(w) for w in exchange.system.rstrip(".").split() if w in scripts.NUMBERS]
            assert c == (a + b if " plus " in exchange.system else a - b)


def test_an_order_is_read_back_as_it_was_revised():
    rng = random.Random(0)
    pick = scripts.Picker(rng, "train")
    revised = 0
    for _ in range(100):
        talk = scripts.cafe(rng, pick)
        counts = [word.strip(",") for word in talk[1].user.split() if word.strip(",") in scripts.NUMBERS]
        if counts and "order" in talk[-1].user:
            assert talk[-1].system.startswith(f"{counts[0]} ")
            revised += 1
    assert revised > 5


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="dev"):
        scripts.Picker(random.Random(0), "dev")


def test_speakers_belong_to_one_split_and_every_engine_has_both():
    names = [s.name for s in SPEAKERS]
    assert len(set(names)) == len(names) >= 60 and set(names) > HELD_OUT
    for engine in QUOTA:
        assert of_split("train", engine) and of_split("test", engine)
    for language in LANGUAGES:
        assert of_split("train", None, language) and of_split("test", None, language)


def test_training_speakers_never_say_what_is_held_out():
    wanted = user_requests("piper", 0, share=0.5)
    sums = {True: set(), False: set()}
    for r in wanted:
        if " plus " in r.text:
            sums[f"piper:{r.speaker}" in HELD_OUT].add(tuple(w for w in r.text.rstrip("?").split() if w in scripts.NUMBERS))
    assert sums[True] and sums[False] and not sums[True] & sums[False]


def test_a_speakers_lines_are_whole_scenarios_in_manners_that_it_has():
    for speaker in (of_split("train", "flite")[0], of_split("test", "hibari")[0]):
        lines = speaker_lines(speaker, "train", 200, 0)
        assert 200 <= len(lines) < 260 and {split_key(n)[1] for n in lines} & set(STYLES) <= set(speaker.styles())


def test_the_system_has_one_voice_and_one_for_each_other_language():
    systems = ["okay.", key("bonjour.", "fr"), key("hola.", "es"), key("beep.", "beep")]
    assert {(r.text, r.voice) for r in system_requests("hibari", systems)} == {("okay.", "heart")}
    assert {r.voice for r in system_requests("kokoro", systems)} == {"ff_siwis", "ef_dora"}
    assert [r.text for r in SoundEngine().requests(systems)][0] == key("beep.", "beep")


def test_sounds_differ_and_beeps_have_words():
    engine = SoundEngine()
    clips = [engine.say(key("", s), "v0").samples for s in SOUNDS]
    assert all(np.abs(c).max() > 0.2 and len(c) > 4000 for c in clips)
    beeps = engine.say(key("beep, beep.", "beep"), "v0")
    assert [w.text for w in beeps.words] == ["beep,", "beep."]
    between = beeps.samples[int((beeps.words[0].end + 0.02) * SAMPLE_RATE) : int((beeps.words[1].start - 0.02) * SAMPLE_RATE)]
    assert np.abs(between).max() == 0


def test_mumbling_keeps_the_length_and_loses_the_overtones():
    noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    dull = styled(noise, MUMBLED, 0)
    power = np.abs(np.fft.rfft(dull)) ** 2
    assert len(dull) == len(noise) and power[2000:].sum() < 0.05 * power.sum()


def test_a_stopped_bank_goes_on_and_ends_up_the_same(tmp_path, bank_folder):
    wanted = requests()
    for done in fill(tmp_path, ToneEngine(), wanted):
        if done == 20:
            break
    with open(tmp_path / "hibari.jsonl", "a") as index:
        index.write('{"text": "half a li')
    assert next(iter(fill(tmp_path, ToneEngine(), wanted))) == 21
    list(fill(tmp_path, ToneEngine(), wanted))
    assert (tmp_path / "hibari.pcm").read_bytes() == (bank_folder / "hibari.pcm").read_bytes()
    assert (tmp_path / "hibari.jsonl").read_text() == (bank_folder / "hibari.jsonl").read_text()


def test_a_bank_takes_new_lines_and_keeps_the_old(tmp_path):
    old = [Request("one", "heart", "user"), Request("two", "heart", "user")]
    list(fill(tmp_path, ToneEngine(), old))
    list(fill(tmp_path, ToneEngine(), [Request("three", "heart", "user"), *old]))
    assert [c.text for c in Bank(tmp_path).clips] == ["one", "two", "three"]


def test_loud_and_quiet_clips_keep_their_level(tmp_path):
    list(fill(tmp_path, ToneEngine(), [Request(key("how do i sound?", m), "heart", "user") for m in ("loud", "quiet")]))
    loud, quiet = (np.abs(Bank(tmp_path).samples(c)).max() for c in Bank(tmp_path).clips)
    assert loud > 0.9 and quiet < 0.03


def test_speech_is_trimmed_and_its_words_move_along(bank_folder):
    bank = Bank(bank_folder)
    speech = bank.speech(bank.find("system", "okay.")[0])
    assert speech.words[0].start == pytest.approx(0.02, abs=0.01)
    assert np.abs(speech.samples[int(speech.words[0].start * SAMPLE_RATE) + 50 :][:100]).max() > 0.1


def test_words_of_a_bank_never_overlap(tmp_path):
    class Hasty(ToneEngine):
        def say(self, text, voice, speed=1.0, seed=0):
            said = super().say(text, voice, speed, seed)
            return Utterance(said.samples, tuple(type(w)(w.text, w.start, w.end + 0.12) for w in said.words))

    list(fill(tmp_path, Hasty(), [Request("one two three", "heart", "user")]))
    words = Bank(tmp_path).clips[0].words
    assert [w.end for w in words[:-1]] == [w.start for w in words[1:]]


def test_wordings_for_training_alone_are_never_asked_in_the_test_and_hold_nothing_that_is():
    from train.corpus.exchange import FOR_TRAINING, REGISTRY

    def plain(text):
        return f" {' '.join(re.sub('[^a-z {}]', '', text).split())} "

    asked: dict[str, set] = {"train": set(), "test": set()}

    class Recorded(scripts.Picker):
        def __call__(self, kind, options):
            option = super().__call__(kind, options)
            asked[self.split].add((kind, option))
            for more in FOR_TRAINING.get(kind, ()):
                assert more not in options
                for held in options:
                    assert not self.held_out(kind, held) or plain(held) not in plain(more), f"{kind}: {more} holds {held}"
            return option

    for split in asked:
        pick = Recorded(random.Random(3), split)
        for _, make in REGISTRY.scenarios.values():
            for _ in range(300):
                make(pick.rng, pick)
        for _ in range(200):
            scripts.goodbye(pick), scripts.stop(pick)
    further = {(kind, option) for kind, options in FOR_TRAINING.items() for option in options}
    assert not further & asked["test"]
    assert {kind for kind, _ in further & asked["train"]} == set(FOR_TRAINING)
