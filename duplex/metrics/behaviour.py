"""How a system behaves in one situation, from its activity: when it starts, when it falls silent, whether it goes on.

Activity is bool [T], one value per 80 ms frame (`duplex.vad.activity`); times are seconds. A stretch of sound shorter than
`SPEECH_FRAMES` is a click, not speech; a silence shorter than what a question asks for is a pause between words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from duplex.metrics.words import plain
from duplex.text import Word
from duplex.units import FRAME_SECONDS, seconds_to_frame

SPEECH_FRAMES = 3
"""Active frames in a row (0.24 s) that are speech."""
SILENT_FRAMES = 3
"""Silent frames in a row (0.24 s) that end a stretch of speech, as everywhere (`duplex.turns.TurnConfig.pause_frames`). A system
that talks on has such pauses, too: the control that always talks shows how soon one comes by chance."""
GONE_FRAMES = 9
"""Silent frames in a row (0.72 s) after which it has left off, even at the end of a sentence."""


def onsets(active: np.ndarray) -> list[float]:
    """Starts of speech: first frames of runs of at least `SPEECH_FRAMES`, in seconds."""
    found, run = [], 0
    for frame, value in enumerate(active):
        run = run + 1 if value else 0
        if run == SPEECH_FRAMES:
            found.append((frame + 1 - run) * FRAME_SECONDS)
    return found


def first_onset(active: np.ndarray, start: float, end: float) -> float | None:
    """The first start of speech in [start, end) seconds."""
    return next((time for time in onsets(active) if start <= time < end), None)


def speaks_within(active: np.ndarray, start: float, end: float) -> bool:
    """Whether there is speech within [start, end) seconds, wherever it began."""
    return bool(onsets(active[seconds_to_frame(max(0.0, start)) : seconds_to_frame(max(0.0, end))]))


def speaking_at(active: np.ndarray, time: float, back: float = 0.4) -> bool:
    """Whether there was sound within the last ``back`` seconds before ``time``."""
    first, end = max(0, seconds_to_frame(time - back)), seconds_to_frame(time) + 1
    return bool(active[first:end].any())


def silent_from(active: np.ndarray, time: float, frames: int = SILENT_FRAMES) -> float:
    """Seconds from ``time`` until the first of ``frames`` silent frames in a row; infinite when that never comes.

    Silence that has begun before counts as 0. A recording that ends sooner does not count as silence.
    """
    first = seconds_to_frame(time)
    for frame in range(first, len(active) - frames + 1):
        if not active[frame : frame + frames].any():
            return max(0.0, frame * FRAME_SECONDS - time)
    return math.inf


def goes_on(active: np.ndarray, start: float, end: float) -> bool:
    """Whether speech goes on from ``start`` to ``end``, pauses between sentences allowed."""
    return silent_from(active[: seconds_to_frame(end) + 1], start, GONE_FRAMES) == math.inf


def said(words: Sequence[Word], start: float, end: float = math.inf) -> str:
    """Plain words that begin in [start, end) seconds."""
    return plain(" ".join(w.text for w in words if start <= w.start < end))


def right(heard: str, expected: Sequence[str], least: int | None = None) -> bool:
    """Whether ``heard`` is one of the expected answers, word for word; ``least`` of its first words suffice where given."""
    words = plain(heard).split()
    for answer in expected:
        wanted = plain(answer).split()
        if words == wanted or (least is not None and len(words) >= least and words == wanted[: len(words)]):
            return True
    return False
