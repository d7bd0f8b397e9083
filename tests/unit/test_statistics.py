"""Bootstrap intervals, codec measures and behaviour in single situations, on cases that can be told by hand."""

import math

import numpy as np
import pytest

from benchmarks.statistics import mean, median, ratio
from duplex.errors import InputError
from duplex.metrics.behaviour import goes_on, onsets, right, said, silent_from, speaking_at, speaks_within
from duplex.metrics.quality import bitrate, codebook_use, si_sdr, stft_distance
from duplex.testing import activity_of, tone
from duplex.text import Word


def test_intervals_cover_what_they_should():
    rng = np.random.default_rng(0)
    covered = [e.low <= 0.3 <= e.high for e in (mean(rng.random(80) < 0.3, seed=n) for n in range(120))]
    assert 0.85 < np.mean(covered) <= 1
    assert mean([True, True]).to_dict() == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    assert mean([]).value is None and mean([]).n == 0


def test_what_never_came_counts_in_a_median():
    assert median([0.2, 0.4, math.inf]).value == 0.4
    assert median([0.2, math.inf, math.inf]).to_dict()["value"] is None
    assert ratio([1, 0], [4, 6]).value == pytest.approx(0.1) and ratio([0], [0]).value is None


def test_onsets_and_silence():
    active = activity_of([(5, 6), (10, 20), (24, 40)], 60)
    assert onsets(active) == pytest.approx([0.8, 1.92])  # one frame is a click
    assert speaking_at(active, 1.0) and not speaking_at(active, 0.75, back=0.0)
    assert silent_from(active, 1.2) == pytest.approx(0.4)
    assert silent_from(active, 1.2, 5) == pytest.approx(40 * 0.08 - 1.2)  # the gap of four frames is a pause
    assert speaks_within(active, 1.2, 1.5) and not speaks_within(active, 1.6, 1.95) and not speaks_within(active, 0.2, 0.6)
    assert silent_from(active, 4.0) == 0.0
    assert silent_from(activity_of([(0, 60)], 60), 1.0) == math.inf
    assert goes_on(active, 1.0, 3.0) and not goes_on(active, 2.5, 4.7)


def test_right_answers():
    words = [Word("Nine", 2.0, 2.2), Word("plus", 2.3, 2.5), Word("two.", 2.6, 2.8)]
    assert said(words, 2.1) == "plus two" and said(words, 0, 2.3) == "nine"
    assert right("nine plus two", ["other", "Nine plus two!"]) and not right("nine plus", ["nine plus two"])
    assert right("one two three", ["one, two, three, four, five."], least=3)
    assert not right("one two", ["one, two, three, four."], least=3)
    assert not right("one three four", ["one, two, three."], least=2)


def test_measures_of_sound():
    clean, noise = tone(1.0), np.random.default_rng(0).standard_normal(24_000)
    noise = noise - (noise @ clean) / (clean @ clean) * clean  # nothing of the signal is left in it
    noise *= np.sqrt((clean @ clean) / (noise @ noise))
    assert si_sdr(clean, (0.5 * clean + 0.05 * noise).astype(np.float32)) == pytest.approx(20, abs=0.05)
    assert si_sdr(clean, 3 * clean) > 80
    assert stft_distance(clean, clean) == 0 < stft_distance(clean, clean * 0.9) < stft_distance(clean, noise)
    with pytest.raises(InputError):
        si_sdr(np.zeros(10), np.ones(10))
    with pytest.raises(InputError):
        stft_distance(clean, clean[:-1])


def test_use_of_codebooks():
    use = codebook_use(np.array([[0, 1, 2, 3], [5, 5, 5, 5]]), 8)
    assert use[0] == {"used": 0.5, "bits": 2.0, "perplexity": 4.0} and use[1]["bits"] == 0
    assert bitrate(8, 2048) == 1100
