"""Speech with its words, and the protocol of everything that speaks."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from duplex.text import Word
from duplex.units import SAMPLE_RATE


class EngineMissing(RuntimeError):
    """An engine cannot run here; the message is the line that installs it."""


@dataclass(frozen=True)
class Utterance:
    """Speech as float32 [S] at 24 kHz; ``words`` is empty when the engine gives no times."""

    samples: np.ndarray
    words: tuple[Word, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


class Engine(Protocol):
    """One synthesiser (or one set of recordings)."""

    name: str

    def voices(self) -> list[str]:
        """Names that `say` accepts."""
        ...

    def say(self, text: str, voice: str, speed: float = 1.0, seed: int = 0) -> Utterance:
        """Speak ``text``: equal arguments give equal samples. Raises EngineMissing when parts are not installed."""
        ...


def resample_mono(samples: np.ndarray, source: int, target: int) -> np.ndarray:
    """float32 [S] from one rate to another."""
    if source == target:
        return samples
    import torch  # here, so that dialogues are laid out without it

    return _resampler(source, target)(torch.from_numpy(np.ascontiguousarray(samples))).numpy()


@functools.lru_cache(maxsize=64)
def _resampler(source: int, target: int):
    """Remembered: building the filter takes longer than using it."""
    import torchaudio.transforms

    return torchaudio.transforms.Resample(source, target)


def trim(samples: np.ndarray, threshold: float = 0.01, pad: float = 0.02) -> tuple[np.ndarray, float]:
    """Cut silence at both ends. Returns the samples and how many seconds the start moved."""
    loud = np.flatnonzero(np.abs(samples) > threshold * max(1e-6, float(np.abs(samples).max(initial=0.0))))
    if len(loud) == 0:
        return samples[:0], 0.0
    start = max(0, int(loud[0] - pad * SAMPLE_RATE))
    return samples[start : int(loud[-1] + pad * SAMPLE_RATE)], start / SAMPLE_RATE


def without_silence(utterance: Utterance) -> Utterance:
    """The utterance from its first to its last sound, word times counted from the first sample kept."""
    samples, moved = trim(utterance.samples)
    return Utterance(samples, tuple(Word(w.text, max(0.0, w.start - moved), max(0.0, w.end - moved)) for w in utterance.words))
