"""Word times of the speech engines against forced alignment, where both are installed."""

import numpy as np
import pytest

from train.corpus.align import Aligner, alignable, annotate, measure
from train.corpus.bank import Bank, Request, fill
from train.corpus.exchange import MUMBLED, key
from train.corpus.speakers import of_split
from train.corpus.utterance import EngineMissing
from train.speak import make_engine

pytest.importorskip("pocketsphinx", reason="forced alignment needs pocketsphinx (extra: corpus)")

LINES = ("what is seven plus two?", "count from three to fifteen", "tell me the story about the fox",
         "repeat after me, red apple", "i would like a coffee, please", "what day comes after monday?",
         "can you spell water?", "what does a cow say?")
LIMIT = 0.040  # seconds, median


@pytest.mark.parametrize("name", ["hibari", "flite", "espeak", "piper"])
def test_word_times_are_within_forty_milliseconds_of_forced_alignment(tmp_path, name):
    try:
        engine = make_engine(name, None)
    except EngineMissing as missing:
        pytest.skip(str(missing))
    speakers = of_split("train", name)
    wanted = [Request(line, s.voice, "user", s.speed, s.warp, pitch=s.pitch)
              for line, s in zip(LINES, (speakers * len(LINES))[:: max(1, len(speakers) // 3)], strict=False)]
    list(fill(tmp_path, engine, wanted))
    (found,) = measure(Bank(tmp_path), len(wanted))
    assert found.words > 20 and found.start_median <= LIMIT and found.end_median <= LIMIT, found
    assert np.abs(found.start_bias) < 0.03


def test_missing_times_are_filled_in_and_nothing_else_changes(tmp_path):
    try:
        engine = make_engine("flite", None)
    except EngineMissing as missing:
        pytest.skip(str(missing))

    class Timeless:
        """The same sound without times."""

        name = "flite"

        def say(self, text, voice, speed=1.0, seed=0):
            said = engine.say(text, voice, speed, seed)
            return type(said)(said.samples)

    names = [LINES[0], key(LINES[0], MUMBLED), "spell C, A, T"]
    list(fill(tmp_path, Timeless(), [Request(n, "slt", "user") for n in names]))
    sound = (tmp_path / "flite.pcm").read_bytes()
    assert annotate(tmp_path, "flite", Aligner()) == (2, 2)
    clips = Bank(tmp_path).clips
    assert [len(c.words) for c in clips] == [5, 0, 4] and (tmp_path / "flite.pcm").read_bytes() == sound
    assert [w.text for w in clips[2].words] == ["spell", "C,", "A,", "T"]


def test_sounds_and_other_languages_are_not_aligned():
    assert alignable("hello") and alignable(key("hello", "far"))
    for name in (key("", "bell"), key("hola", "es"), key("hello", MUMBLED), key("beep.", "beep"), "@prompt"):
        assert not alignable(name)
