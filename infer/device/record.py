"""A live conversation as it goes to files: sound straight to disk, words and events in memory, the report at the end."""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from contextlib import suppress
from pathlib import Path

import numpy as np
import soundfile

from duplex.audio import read_audio
from duplex.errors import InputError
from duplex.playout import Piece
from duplex.policy import HeardLog
from duplex.session import SessionFrame
from duplex.simulate import Dialogue
from duplex.text import Word
from duplex.turns import Event
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE
from infer.report import About, check_folder, write_report

_HELD = 8  # frames that wait for what the playback may still report about them
MAX_MINUTES = 60
"""Longer conversations are recorded up to here."""


class Recorder:
    """Takes the frames of a live conversation; `close` writes the same four files as a simulation.

    The left channel is the system as it was heard: what was flushed is silent in it. Until then the sound lies in a
    folder under a temporary name.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = check_folder(folder)
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.live.", dir=self.folder.parent))
            self._path = self._temporary / "sound.wav"
            self._wav = soundfile.SoundFile(self._path, "w", SAMPLE_RATE, 2, "PCM_16")
        except (OSError, soundfile.LibsndfileError) as error:
            raise InputError(f"{folder}: cannot be written ({error}); name another folder with --record") from None
        self._waiting: deque[tuple[int, np.ndarray]] = deque()
        self._words: list[Word] = []
        self._events: list[Event] = []
        self.frames = 0

    def add(self, user: np.ndarray, frame: SessionFrame, lost: tuple[Piece, ...]) -> None:
        """Takes a frame of both sides, and what of earlier ones was not heard."""
        for piece in lost:
            for number, stereo in self._waiting:
                if number == piece.tag:
                    stereo[FRAME_SAMPLES - piece.samples :, 0] = 0  # a flush loses the end of a frame
        self._words += frame.words
        self._events += frame.events
        if self.frames < MAX_MINUTES * 750:
            self._waiting.append((frame.index, np.stack([frame.pcm, user], 1)))
            self.frames += 1
        if len(self._waiting) > _HELD:
            self._wav.write(self._waiting.popleft()[1])

    def close(self, about: About, words: tuple[Word, ...], events: tuple[Event, ...], heard: HeardLog,
              step_seconds: tuple[float, ...]) -> list[Path]:
        """Ends the recording with what the session's `finish` gave; returns the paths of the files."""
        try:
            for _, stereo in self._waiting:
                self._wav.write(stereo)
            self._wav.close()
            system, user = read_audio(self._path) if self.frames else np.zeros((2, 0), np.float32)
            dialogue = Dialogue(
                system, user, (), (*self._words, *words),
                tuple(sorted([*self._events, *events], key=lambda event: event.time)), step_seconds=step_seconds, heard=heard)
            return write_report(dialogue, about, self.folder)
        finally:
            with suppress(OSError):
                shutil.rmtree(self._temporary)
