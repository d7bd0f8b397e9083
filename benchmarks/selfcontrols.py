"""What the controls do when two of a kind talk to each other, beside `benchmarks.selftalk`.

Silent ones say nothing, talking ones talk all the time, end-pointers wait for 0.72 s of silence and are stopped by 0.24 s of
speech, and oracles hear when the other ends and begin 0.36 s later. One of each pair is greeted at the start, as the models are.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from benchmarks.clips import Clips
from benchmarks.segments import speech
from benchmarks.selftalk import summed
from benchmarks.systems import CANNED, TALK, EndPointer
from duplex.metrics.words import plain
from duplex.units import FRAME_SAMPLES, frames_to_seconds, seconds_to_frames
from train.corpus import scripts
from train.corpus.exchange import Picker

ORACLE_FRAMES = 4
"""Frames between the end of a line and the oracle's answer: the first that is begun 0.36 s after it, as in the other tables."""
TALKS = ("opposites", "colours", "facts", "addition", "next_day", "cafe", "story", "day_plan")
"""Scenarios of spoken lines alone, in the voice of the system on both sides."""


class _Side:
    """One of the two: its track float32 [T * 1920] and the lines that it has said."""

    def __init__(self, clips: Clips, frames: int):
        self.clips, self.track = clips, np.zeros(frames * FRAME_SAMPLES, np.float32)
        self.lines: list[str] = []

    def say(self, name: str, at: int, until: int | None = None) -> int:
        """Puts a line down from frame `at`, cut off at frame `until`; gives the frame after it."""
        said = self.clips.system(name)
        if said is None:
            return at
        first = at * FRAME_SAMPLES
        last = len(self.track) if until is None else min(until * FRAME_SAMPLES, len(self.track))
        part = said.samples[: max(0, last - first)]
        self.track[first : first + len(part)] = part
        self.lines.append(name)
        return -(-(first + len(part)) // FRAME_SAMPLES)


def _silent(sides: list[_Side], greeting: np.ndarray, frames: int, rng: random.Random) -> None:
    """Nobody says anything."""


def _talking(sides: list[_Side], greeting: np.ndarray, frames: int, rng: random.Random) -> None:
    for side in sides:
        at = 0
        while at < frames:
            at = side.say(TALK, at) + 1


def _end_pointers(sides: list[_Side], greeting: np.ndarray, frames: int, rng: random.Random) -> None:
    ears = [EndPointer(side.clips) for side in sides]
    began: list[int | None] = [None, None]
    said = [side.clips.system(CANNED).samples for side in sides]
    for frame in range(frames):
        spoken = [np.zeros(FRAME_SAMPLES, np.float32) if at is None else _frame(said[n], frame - at)
                  for n, at in enumerate(began)]
        heard = [spoken[1] + _frame(greeting, frame), spoken[0]]
        for n, (ear, side) in enumerate(zip(ears, sides, strict=True)):
            at, speaking = began[n], ear.push(heard[n])
            if at is not None and not speaking:
                side.say(CANNED, at, frame + 1)
                began[n] = None
            elif at is None and speaking:
                began[n] = frame + 1
    for side, at in zip(sides, began, strict=True):
        if at is not None:
            side.say(CANNED, at)


def _oracles(sides: list[_Side], greeting: np.ndarray, frames: int, rng: random.Random) -> None:
    pick, at = Picker(rng, "test"), len(greeting) // FRAME_SAMPLES + ORACLE_FRAMES
    while at < frames:
        for exchange in scripts.instance(rng, pick, rng.choice(TALKS)):
            for side, line in zip(sides, (exchange.user, exchange.system), strict=True):
                if at < frames:
                    at = side.say(line, at) + ORACLE_FRAMES


RULES: dict[str, Callable[[list[_Side], np.ndarray, int, random.Random], None]] = {
    "always silent": _silent, "always talking": _talking, "VAD end-pointer": _end_pointers, "oracle": _oracles}


def control_talk(name: str, clips: Clips, greeting: np.ndarray, dialogues: int, seconds: float, seed: int) -> dict:
    """Statistics of a control's dialogues with itself, as `benchmarks.selftalk.self_talk` has them, under "control" its name."""
    frames, spans, texts = seconds_to_frames(seconds), [], []
    for number in range(dialogues):
        sides = [_Side(clips, frames), _Side(clips, frames)]
        RULES[name](sides, greeting, frames, random.Random(f"{seed}:{number}"))
        spans += [speech(side.track) for side in sides]
        texts += [" ".join(side.lines) for side in sides]
    words = [len(plain(text).split()) for text in texts]
    return {"control": name} | summed(spans, texts, words, frames_to_seconds(frames))


def _frame(samples: np.ndarray, number: int) -> np.ndarray:
    """Frame `number` of a recording, float32 [1920]; silence where it has none."""
    part = samples[number * FRAME_SAMPLES : (number + 1) * FRAME_SAMPLES] if number >= 0 else samples[:0]
    return np.pad(part, (0, FRAME_SAMPLES - len(part))).astype(np.float32)
