"""Scores of single items, one function a task; `summary` makes tables of them.

A score is a dict of bools and numbers. None says that a question does not arise (a system that was not speaking cannot be
interrupted) and infinity that something never happened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.items import Item
from benchmarks.systems import BY_TEXT, Response
from duplex.metrics.behaviour import (
    SPEECH_FRAMES,
    first_onset,
    goes_on,
    onsets,
    right,
    said,
    silent_from,
    speaking_at,
    speaks_within,
)
from duplex.metrics.turntaking import segments_of
from duplex.metrics.words import longest_loop, plain
from duplex.vad import activity

Score = dict[str, bool | float | str | None]

EARLY = 0.48
"""Seconds before the end of a user's turn from which a start still is an answer to it."""
PATIENCE = 3.0
"""Seconds after it until which it is."""
REACTION = 0.2
"""A start so soon after the user has gone on was decided in the pause."""
ECHO = 0.3
"""Words of an answer may be written so long before the user's turn is over."""


def turn(item: Item, response: Response, active: np.ndarray) -> Score:
    """Smooth turn-taking, and whether the answer is right."""
    start, end = item.marks["turn"]
    answer = first_onset(active, end - EARLY, end + PATIENCE)
    over = speaks_within(active, start + 0.3, end - EARLY)
    heard = said(response.words, end - ECHO)
    taken = answer is not None and not over
    return {"takes_turn": taken, "response_s": max(0.0, answer - end) if taken else math.inf, "over_user": over,
            "right": right(heard, item.expected, item.least) if item.expected else None, "heard": heard}


def pause(item: Item, response: Response, active: np.ndarray) -> Score:
    """Does the system take a pause for the end of the turn?"""
    start, end = item.marks["pause"]
    begun = speaks_within(active, item.marks["turn"][0] + 0.3, end) or first_onset(active, start, end + REACTION) is not None
    after = turn(item, response, active)
    answer = first_onset(active, item.marks["turn"][1] - EARLY, math.inf)
    return {"takes_over": begun, "answers_after": answer is not None,
            "right": after["right"], "heard": after["heard"]}


def interruption(item: Item, response: Response, active: np.ndarray) -> Score:
    """Does the system stop for the user, how soon, and does it answer what they say?"""
    start, end = item.marks["event"]
    speaking = speaking_at(active, start)
    heard = said(response.words, end - ECHO)
    answer = first_onset(active, end - EARLY, math.inf)
    return {"speaking": speaking, "stop_s": silent_from(active, start) if speaking else None,
            "right": right(heard, item.expected, item.least) if speaking else None,
            "response_s": (math.inf if answer is None else max(0.0, answer - end)) if speaking else None, "heard": heard}


def beside(item: Item, response: Response, active: np.ndarray) -> Score:
    """Does the system go on through what is not meant to stop it?"""
    start, end = item.marks["event"]
    speaking = speaking_at(active, start)
    return {"speaking": speaking, "goes_on": goes_on(active, start, min(end + 1.2, item.seconds)) if speaking else None,
            "stop_s": silent_from(active, start) if speaking else None}


def report(item: Item, response: Response, active: np.ndarray) -> Score:
    """Does the system listen to a long turn, with no more than backchannels?"""
    spans = [b - a for a, b in segments_of(active) if b - a >= SPEECH_FRAMES * 0.08]
    return {"takes_over": any(length > 2.0 for length in spans), "backchannels": sum(length <= 2.0 for length in spans)}


def recall(item: Item, response: Response, active: np.ndarray) -> Score:
    """Is what was told half a minute ago still known?"""
    heard = said(response.words, item.marks["turn"][1] - ECHO)
    return {"right": right(heard, item.expected, item.least), "heard": heard}


SCORERS: dict[str, Callable[[Item, Response, np.ndarray], Score]] = {
    "turn": turn, "pause": pause, "interruption": interruption, "backchannel": beside, "aside": beside, "background": beside,
    "report": report, "name_recall": recall, "order_recall": recall}


MARKS = {"pause": ("turn", "pause"), **dict.fromkeys(("interruption", "backchannel", "aside", "background"), ("turn", "event"))}
"""What must be annotated in items; of all others, the turn."""


def score(item: Item, response: Response) -> Score:
    """All measures of one item, and signs of a rollout that has gone wrong. ``error`` alone where it cannot be scored."""
    if response.error:
        return {"error": response.error}
    if len(response.pcm) != len(item.user):
        return {"error": f"{item.name}: {len(response.pcm)} samples came back for {len(item.user)}"}
    if not np.isfinite(response.pcm).all():
        return {"error": f"{item.name}: the system's sound is not finite"}
    missing = [mark for mark in MARKS.get(item.task, ("turn",)) if mark not in item.marks]
    if missing:
        return {"error": f"{item.name}: no annotation of its {' and '.join(missing)}; add it"}
    active = activity(np.ascontiguousarray(response.pcm))
    if item.task in BY_TEXT:
        return SCORERS[item.task](item, response, active)
    return SCORERS[item.task](item, response, active) | health(response, active)


def health(response: Response, active: np.ndarray) -> Score:
    """Loops and collapses of a rollout: a phrase four times over, sound without words, words without sound."""
    words = plain(" ".join(w.text for w in response.words)).split()
    seconds = float(active.sum()) * 0.08
    return {"loop": longest_loop(words) >= 4, "sound_without_words": bool(seconds > 3.0 and not words),
            "words_without_sound": bool(len(words) >= 4 and seconds < 0.1 * len(words)), "starts": len(onsets(active))}


def excluded(scores: Sequence[Score]) -> list[str]:
    """Why items were left out, one line each."""
    return [str(s["error"]) for s in scores if "error" in s]


def values(scores: Sequence[Score], name: str) -> list:
    """The values of a measure where its question arose."""
    return [s[name] for s in scores if "error" not in s and s.get(name) is not None]
