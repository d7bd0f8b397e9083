"""Scores of the public Full-Duplex-Bench (v1: arXiv:2503.04721; v1.5: arXiv:2507.23159), "exact" and "corrected".

*Exact* does what the public scorers do, quirks kept, so that numbers agree to the last digit. *Corrected* looks at the moment
that an item is about: words before it (a greeting, the answer to an earlier turn) decide nothing, and one backchannel after a
take-over does not undo it.

A take-over, in both: words that span at least 1 s, or more than three of them. Words are (text, start, end) in seconds, where the
end, and for backchannels the start, may be unknown (None); segments are (start, end) in seconds of detected speech.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from duplex.metrics.turntaking import Segment, join

Chunk = tuple[str, float | None, float | None]
"""A word and when it starts and ends."""

TURN_SECONDS, TURN_WORDS = 1.0, 3
BACKCHANNEL_SECONDS, BACKCHANNEL_WORDS = 3.0, 2
BIN = 0.2
_EPSILON = 1e-10
USER_MERGE, MODEL_MERGE = 0.6, 0.5
"""Silences of each side, in seconds, that v1.5 closes before it measures latencies."""
CHAINED = 0.5
"""Corrected: words closer than this to the one before belong to the same talk."""


@dataclass(frozen=True)
class TakeOver:
    """Whether the system took the turn and, if so, how long after the annotated time (never below 0)."""

    taken: bool
    latency: float | None = None


def spans_turn(words: Sequence[Chunk]) -> bool:
    """The take-over rule. Of a last word without an end, the start counts."""
    if not words:
        return False
    first, last = words[0][1], words[-1][2] if words[-1][2] is not None else words[-1][1]
    return not (last - first < TURN_SECONDS and len(words) <= TURN_WORDS)


def exact_take_over(words: Sequence[Chunk], end: float | None = None) -> TakeOver:
    """Pause handling (``end`` None), smooth turn-taking and user interruption: all words of the output count.

    ``end`` is the annotated time from which latency counts.
    """
    if not spans_turn(words):
        return TakeOver(False)
    return TakeOver(True, None if end is None else max(0.0, words[0][1] - end))


def corrected_pause(words: Sequence[Chunk], pauses: Sequence[Segment], reaction: float = 0.2) -> TakeOver:
    """Does talk of the system begin in a pause (or so soon after it that it was decided there)?"""
    for talk in talks(words):
        if any(start <= talk[0][1] < end + reaction for start, end in pauses) and spans_turn(talk):
            return TakeOver(True)
    return TakeOver(False)


def corrected_turn(words: Sequence[Chunk], end: float, early: float = 0.5) -> TakeOver:
    """Talk that begins after the user's turn, or at most ``early`` seconds before its end."""
    later = [talk for talk in talks(words) if talk[0][1] >= end - early]
    found = [word for talk in later for word in talk]
    return TakeOver(True, max(0.0, found[0][1] - end)) if spans_turn(found) else TakeOver(False)


def corrected_interruption(words: Sequence[Chunk], event: Segment, early: float = 0.5) -> TakeOver:
    """The same for what is said after an interruption; talk that was going on when it began does not count."""
    found = [word for talk in talks(words) if talk[0][1] >= event[0] for word in talk if word[1] >= event[1] - early]
    return TakeOver(True, max(0.0, found[0][1] - event[1])) if spans_turn(found) else TakeOver(False)


def talks(words: Sequence[Chunk], gap: float = CHAINED) -> list[list[Chunk]]:
    """Words in runs that silences of at least ``gap`` seconds separate; words without a start are left out."""
    found: list[list[Chunk]] = []
    previous = -math.inf
    for word in words:
        if word[1] is None:
            continue
        if word[1] - previous >= gap:
            found.append([])
        found[-1].append(word)
        previous = word[2] if word[2] is not None else word[1]
    return found


@dataclass(frozen=True)
class Backchannels:
    """Behaviour of a listener in a long turn."""

    taken: bool
    events: tuple[Segment, ...]
    """Stretches of speech that count as backchannels."""
    per_second: float
    divergence: float
    """Jensen-Shannon distance (natural logarithm) between when they come and when people give them; 1 without any."""


def backchannels(segments: Sequence[Segment], words: Sequence[Chunk], duration: float, people: Sequence[float],
                 exact: bool = True) -> Backchannels:
    """Backchannel task over an output of ``duration`` seconds; ``people`` is the reference distribution, any number of bins.

    Exact: each segment overwrites the verdict of the one before, until one lasts over 3 s. Corrected: one take-over is enough.
    """
    taken, events = False, []
    for start, end in segments:
        length = end - start
        if length > BACKCHANNEL_SECONDS:
            taken = True
            break
        count = sum(_touches(word, start, end) for word in words)
        verdict = count > TURN_WORDS or length >= TURN_SECONDS or count > BACKCHANNEL_WORDS
        taken = verdict if exact else taken or verdict
        if exact or not verdict:
            events.append((start, end))
    return Backchannels(taken, tuple(events), len(events) / duration, _divergence(events, duration, people))


def _touches(word: Chunk, start: float, end: float) -> bool:
    """Whether a word counts as part of a segment."""
    _, first, last = word
    if first is None or (last is None and first < end):
        return False
    last = first if last is None else last
    return (first >= start and last <= end) or first <= end < last or first <= start < last


def _divergence(events: Sequence[Segment], duration: float, people: Sequence[float]) -> float:
    if not events:
        return 1.0
    counts = np.zeros(int(duration / BIN) + 1)
    for start, end in events:
        counts[int(start / BIN) : int(end / BIN) + 1] += 1
    mine = (counts + _EPSILON) / (counts + _EPSILON).sum()
    theirs = np.interp(np.linspace(0, 1, len(counts)), np.linspace(0, 1, len(people)), people)
    return jensen_shannon(mine, theirs)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon distance of two distributions (scaled to sum to 1): the root of the divergence, natural logarithm."""
    p, q = np.asarray(p, float) / np.sum(p), np.asarray(q, float) / np.sum(q)
    middle = (p + q) / 2

    def part(x: np.ndarray) -> float:
        inside = x > 0
        return float((x[inside] * np.log(x[inside] / middle[inside])).sum())

    return math.sqrt(max(0.0, (part(p) + part(q)) / 2))


def stop_intervals(user: Sequence[Segment], model: Sequence[Segment]) -> list[Segment]:
    """v1.5, exact: stretches in which both speak; their lengths are the stop latencies. Times to the millisecond.

    Segments as detected. Of stretches that end in the same millisecond the shortest counts.
    """
    user, model = join(user, USER_MERGE), join(model, MODEL_MERGE)
    by_end: dict[int, Segment] = {}
    i = j = 0
    while i < len(user) and j < len(model):
        start, end = max(user[i][0], model[j][0]), min(user[i][1], model[j][1])
        if end > start:
            key = int(round(end * 1000))
            if key not in by_end or end - start < by_end[key][1] - by_end[key][0]:
                by_end[key] = start, end
        if user[i][1] < model[j][1]:
            i += 1
        else:
            j += 1
    return [(round(start, 3), round(end, 3)) for start, end in sorted(by_end.values(), key=lambda s: s[1])]


def response_intervals(user: Sequence[Segment], model: Sequence[Segment]) -> list[Segment]:
    """v1.5, exact: from the end of the user's speech to the next start of the system's; of several ends the last one counts."""
    user, model = join(user, USER_MERGE), join(model, MODEL_MERGE)
    by_start: dict[int, Segment] = {}
    for _, end in user:
        following = next((start for start, _ in model if start > end), None)
        if following is not None:
            key = int(round(following * 1000))
            if key not in by_start or round(end, 3) > by_start[key][0]:
                by_start[key] = round(end, 3), round(following, 3)
    return sorted(by_start.values(), key=lambda s: s[1])
