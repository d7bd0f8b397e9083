"""Spelling of numbers, word errors against a naive recursion, loops."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex.errors import InputError
from duplex.metrics.words import errors, longest_loop, plain, spoken, spoken_words, word_error_rate


@pytest.mark.parametrize("text, said", [
    ("9 + 8 = 17.", "nine plus eight is seventeen"),
    ("9 - 8 = 1", "nine minus eight is one"),
    ("9-11-12-14", "nine eleven twelve fourteen"),
    ("Ten, eleven, 12!", "ten eleven twelve"),
    ("The 1st colour isn't grey", "the first color isnt gray"),
    ("Ça va, Adiós", "ca va adios"),
    ("", ""),
])
def test_words_as_they_are_said(text, said):
    assert " ".join(spoken_words(text)) == said


def test_numbers():
    assert [spoken(n) for n in (0, 13, 20, 42, 100, 365, 1000, 2025, 70_007)] == [
        "zero", "thirteen", "twenty", "forty two", "one hundred", "three hundred sixty five", "one thousand",
        "two thousand twenty five", "seventy thousand seven"]
    assert len({spoken(n) for n in range(3000)}) == 3000
    assert plain("  Hello,  World! ") == "hello world"


words = st.lists(st.sampled_from("abc"), max_size=6)


@settings(max_examples=150, deadline=None)
@given(words, words)
def test_errors_equal_a_plain_recursion(reference, hypothesis):
    @functools.cache
    def distance(i, j):
        if i == 0 or j == 0:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1,
                   distance(i - 1, j - 1) + (reference[i - 1] != hypothesis[j - 1]))

    assert errors(reference, hypothesis) == distance(len(reference), len(hypothesis))


def test_word_error_rate_weighs_by_words():
    assert word_error_rate([("one two three four", "1 2 3 4"), ("stop", "go")]) == pytest.approx(1 / 5)
    with pytest.raises(InputError):
        word_error_rate([("", "word")])


def test_loops():
    assert longest_loop([]) == 0 and longest_loop("a b c".split()) == 1
    assert longest_loop("no no no".split()) == 1 and longest_loop("no no no no".split()) == 4
    assert longest_loop("x one two one two one two y".split()) == 3
