"""Comparing what was said: one spelling for numbers and marks, and the word error rate."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from duplex.errors import InputError

_ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
         "eighteen nineteen").split()
_TENS = "? ? twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = {"1st": "first", "2nd": "second", "3rd": "third", "4th": "fourth", "5th": "fifth"}
_SIGNS = {"+": " plus ", "=": " is ", "&": " and ", "%": " percent "}
_SAME = {"colour": "color", "theatre": "theater", "ok": "okay", "grey": "gray", "equals": "is", "mm-hmm": "mhm"}


def plain(text: str) -> str:
    """Lower-case words without marks and accents, one space apart."""
    text = unicodedata.normalize("NFKD", text.lower())
    text = "".join(c for c in text if not unicodedata.combining(c))
    return " ".join(re.sub(r"[^\w ]", " ", text.replace("'", "")).split())


def spoken(number: int) -> str:
    """A whole number from 0 to 999,999 in words; others digit by digit."""
    if number < 0:
        return "minus " + spoken(-number)
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + ("" if number % 10 == 0 else " " + _ONES[number % 10])
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if size <= number < 1000 * size:
            rest = number % size
            return f"{spoken(number // size)} {name}" + ("" if rest == 0 else " " + spoken(rest))
    return " ".join(_ONES[int(digit)] for digit in str(number))


def spoken_words(text: str) -> list[str]:
    """Words as they are said, for comparing recognisers with scripts: digits become words, signs too, spelling is one.

    "9 + 8 = 17" is nine plus eight is seventeen; "9-11-12" is nine eleven twelve.
    """
    text = text.lower()
    for ordinal, word in _ORDINALS.items():
        text = re.sub(rf"\b{ordinal}\b", word, text)
    between = " minus " if re.search(r"\d\s*-\s*\d+\s*=", text) else " "  # a difference has a result
    text = re.sub(r"(?<=\d)\s*[-–]\s*(?=\d)", between, text)
    for sign, word in _SIGNS.items():
        text = text.replace(sign, word)
    text = re.sub(r"\d+", lambda found: f" {spoken(int(found.group()))} ", text)
    return [_SAME.get(word, word) for word in plain(text).split()]


def errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Fewest words inserted, left out or changed to make one list into the other (Levenshtein)."""
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(hypothesis, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1]


def word_error_rate(pairs: Iterable[tuple[str, str]]) -> float:
    """Errors of (reference, hypothesis) pairs by words of the references, all together. InputError without any word."""
    wrong = total = 0
    for reference, hypothesis in pairs:
        words = spoken_words(reference)
        wrong, total = wrong + errors(words, spoken_words(hypothesis)), total + len(words)
    if total == 0:
        raise InputError("the references hold no word; a word error rate needs some")
    return wrong / total


def longest_loop(words: Sequence[str], longest_unit: int = 8) -> int:
    """How many times in a row the most repeated phrase of 1 to ``longest_unit`` words is said; 1: nothing is repeated.

    Single words count from four times on, since "no, no, no" is speech.
    """
    most = 1 if words else 0
    for unit in range(1, longest_unit + 1):
        run = 0
        for i in range(unit, len(words)):
            run = run + 1 if words[i] == words[i - unit] else 0
            times = run // unit + 1
            if times > most and (unit > 1 or times >= 4):
                most = times
    return most
