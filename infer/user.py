"""Users for simulations: a recording, or a script whose lines wait for what the system does.

A script is TOML:

    voice = "espeak-ng:en-us"      # or hibari, flite; leave it out for the first that is installed
    [[line]]
    at = 0.5                       # seconds from the beginning
    text = "please count to twenty"
    [[line]]
    into_answer = 2.0              # seconds after the system began to speak
    text = "wait, stop"
    [[line]]
    after_answer = 1.0             # seconds after the system fell silent
    clip = "question.wav"          # a recording in place of a text; from and to cut it

A line without a time follows a second after the one before; `pause` gives another time. An answer that has not come
within `patience` seconds (8) is waited for no longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from duplex.audio import pad_to_frames, read_audio, to_mono
from duplex.errors import ConfigError
from duplex.overlay import read_toml
from duplex.text import Word
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, frames_to_samples, samples_to_seconds, seconds_to_samples
from duplex.vad import EnergyVad
from infer.voice import speak

TRIGGERS = ("at", "into_answer", "after_answer", "pause")
_KEYS = {"text", "clip", "from", "to", "voice", "patience", *TRIGGERS}
_ANSWER_FRAMES = 2  # active frames that make an answer
_END_SECONDS = 0.4  # silence that ends one


@dataclass(frozen=True)
class Line:
    """Something that the user says, and when."""

    pcm: np.ndarray
    """float32 [S] at 24 kHz."""
    text: str
    """What it says, or the name of the recording."""
    trigger: str = "pause"
    """One of TRIGGERS."""
    seconds: float = 1.0
    patience: float = 8.0


@dataclass(frozen=True)
class Said:
    """A line as it was said; seconds."""

    text: str
    start: float
    end: float


class User(Protocol):
    """Whoever talks to the system in a simulation."""

    def speak(self, heard: np.ndarray) -> np.ndarray:
        """Takes the last frame of the system that was heard and gives the user's next one, float32 [1920]."""
        ...

    @property
    def over(self) -> bool:
        """Is there nothing more to come?"""
        ...

    @property
    def said(self) -> tuple[Said, ...]:
        """The lines that were said, with the times at which they were."""
        ...


class RecordedUser:
    """Says a recording, whatever the system does."""

    said: tuple[Said, ...] = ()

    def __init__(self, pcm: np.ndarray) -> None:
        self._frames = pad_to_frames(pcm).reshape(-1, FRAME_SAMPLES)
        self._next = 0

    def speak(self, heard: np.ndarray) -> np.ndarray:
        self._next += 1
        return self._frames[self._next - 1] if self._next <= len(self._frames) else np.zeros(FRAME_SAMPLES, np.float32)

    @property
    def over(self) -> bool:
        return self._next >= len(self._frames)


class ScriptedUser:
    """Says the lines of a script one after another, each when its time has come, and then listens for `tail` seconds."""

    def __init__(self, lines: tuple[Line, ...], tail: float = 4.0, limit: float = 300.0) -> None:
        self._lines, self._tail, self._limit = lines, tail, limit
        self._said: list[Said] = []
        self._frame = 0
        self._pending = np.zeros(0, np.float32)  # sound that has been begun
        self._free_at = 0.0  # when the last line ended
        self._vad = EnergyVad()
        self._run = 0  # active frames of the system in a row
        self._answer: float | None = None  # when the answer to the last line began
        self._heard_until = 0.0  # end of the last frame in which the system was active

    @property
    def said(self) -> tuple[Said, ...]:
        return tuple(self._said)

    @property
    def over(self) -> bool:
        now = self._frame * FRAME_SECONDS
        done = len(self._said) == len(self._lines) and now >= self._free_at + self._tail
        return done or now >= self._limit

    def speak(self, heard: np.ndarray) -> np.ndarray:
        self._listen(heard)
        now = self._frame * FRAME_SECONDS
        if len(self._said) < len(self._lines):
            line = self._lines[len(self._said)]
            start = self._start_of(line, now)
            if start is not None and start < now + FRAME_SECONDS:
                self._begin(line, max(start, now), now)
        self._frame += 1
        frame, self._pending = self._pending[:FRAME_SAMPLES], self._pending[FRAME_SAMPLES:]
        return np.pad(frame, (0, FRAME_SAMPLES - len(frame)))

    def _listen(self, heard: np.ndarray) -> None:
        """The frame before the present one, as the system sounded in it."""
        active = self._vad.push(heard)
        self._run = self._run + 1 if active else 0
        now = self._frame * FRAME_SECONDS
        if active:
            self._heard_until = now
        begun = now - _ANSWER_FRAMES * FRAME_SECONDS
        if self._answer is None and self._run >= _ANSWER_FRAMES and now > self._free_at:
            # An answer is what begins after the line did; what was being said before is not meant.
            self._answer = max(begun, self._free_at)

    def _start_of(self, line: Line, now: float) -> float | None:
        """When the line begins; None while that cannot be told. Never before the line before it has ended."""
        start: float | None = None
        if line.trigger == "at":
            start = line.seconds
        elif line.trigger == "pause":
            start = self._free_at + line.seconds
        elif self._answer is None:
            start = self._free_at + line.patience if now >= self._free_at + line.patience else None
        elif line.trigger == "into_answer":
            start = self._answer + line.seconds
        elif now - self._heard_until >= _END_SECONDS - 1e-9:
            start = self._heard_until + line.seconds
        return None if start is None else max(start, self._free_at)

    def _begin(self, line: Line, start: float, now: float) -> None:
        offset = seconds_to_samples(start) - frames_to_samples(self._frame)
        self._pending = np.concatenate([np.pad(self._pending, (0, max(0, offset - len(self._pending)))), line.pcm])
        end = start + samples_to_seconds(len(line.pcm))
        self._said.append(Said(line.text, start, end))
        self._free_at, self._answer = end, None


def words_of(said: tuple[Said, ...]) -> tuple[Word, ...]:
    """The words of scripted lines, spread evenly over each."""
    words = []
    for line in said:
        texts = line.text.split()
        step = (line.end - line.start) / max(len(texts), 1)
        words += [Word(text, line.start + n * step, line.start + (n + 1) * step) for n, text in enumerate(texts)]
    return tuple(words)


def read_script(path: str | Path, voice: str | None = None) -> tuple[Line, ...]:
    """The lines of a script file; `voice` replaces the one that the file names.

    Raises ConfigError for a file that cannot be read or is no script, InputError for a clip of it that cannot be used.
    """
    path = Path(path)
    values = read_toml(path)
    unknown = set(values) - {"voice", "line"}
    if unknown or not isinstance(values.get("line"), list) or not values["line"]:
        what = f"unknown key {min(unknown)!r}" if unknown else "no [[line]]"
        raise ConfigError(f"{path}: {what}; a script has a voice and [[line]] tables")
    voice = voice or values.get("voice", "auto")
    return tuple(_line(f"{path}: line {number}", table, voice, path.parent) for number, table in enumerate(values["line"], 1))


def _line(where: str, table: Any, voice: str, folder: Path) -> Line:
    if not isinstance(table, dict) or set(table) - _KEYS:
        key = min(set(table) - _KEYS) if isinstance(table, dict) else table
        raise ConfigError(f"{where}: unknown key {key!r}; use {', '.join(sorted(_KEYS))}")
    triggers = [name for name in TRIGGERS if name in table]
    if len(triggers) > 1:
        raise ConfigError(f"{where}: {' and '.join(triggers)} exclude each other; keep one")
    for name in (*triggers, "patience", "from", "to"):
        value = table.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{where}: {name} must be a number of seconds from 0 up, not {value!r}")
    if ("text" in table) == ("clip" in table):
        raise ConfigError(f"{where}: give either text or clip")
    for name in ("text", "clip", "voice"):
        if not isinstance(table.get(name, ""), str):
            raise ConfigError(f"{where}: {name} must be a string")
    if "text" in table:
        pcm, text = speak(table["text"], table.get("voice", voice)), table["text"]
    else:
        clip = folder / table["clip"]
        pcm, text = to_mono(read_audio(clip)), f"({clip.name})"
        pcm = pcm[seconds_to_samples(table.get("from", 0)) : seconds_to_samples(table.get("to", 3_600))]
        if not len(pcm):
            raise ConfigError(f"{where}: nothing of {clip.name} lies between from and to")
    line = Line(pcm, text)
    if triggers:
        line = replace(line, trigger=triggers[0], seconds=float(table[triggers[0]]))
    return replace(line, patience=float(table["patience"])) if "patience" in table else line
