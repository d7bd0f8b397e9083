"""Clips without speech engines: every word a tone, with exact times."""

import numpy as np

from benchmarks import clips
from duplex.testing import scripted_speech
from duplex.text import Word
from train.corpus.voices import Utterance

LETTER, PAUSE = 0.06, 0.04


class ToneEngine:
    """Says each word as a tone as long as the word."""

    name = "hibari"

    def voices(self):
        return ["heart"]

    def say(self, text, voice="heart", speed=1.0, seed=0):
        words, clock = [], 0.0
        for word in text.split():
            end = clock + LETTER * max(2, sum(c.isalpha() for c in word)) / speed
            words.append(Word(word, clock, end))
            clock = end + PAUSE + (0.08 if word[-1] in ",.?!" else 0.0)
        pcm = scripted_speech([(w.start, w.end) for w in words], clock, amplitude=0.3)
        return Utterance(pcm.astype(np.float32), tuple(words))


def fake_clips(folder, monkeypatch):
    """`Clips` that speak in tones, from the hibari speakers of the corpus."""
    monkeypatch.setattr(clips, "ENGINES", {"hibari": ToneEngine})
    monkeypatch.setitem(clips._VERSIONS, "hibari", "tones")
    return clips.Clips(folder, ["hibari"])
