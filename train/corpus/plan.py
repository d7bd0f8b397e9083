"""A dialogue before it is rendered: which clip lies where on which track, and every label."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from duplex.text import Word
from train.corpus.bank import Clip


@dataclass(frozen=True)
class Placement:
    """One clip on one speaker's track."""

    speaker: str
    """"system" or "user"."""
    start: float
    """Seconds from the beginning of the dialogue."""
    clip: Clip
    stop: float | None = None
    """The clip is broken off after so many seconds."""
    hole: tuple[float, float] | None = None
    """A silence is opened so many seconds into the clip, and lasts so long."""
    gain: float = 1.0
    """Factor on the clip, beside the channel's."""


@dataclass
class Plan:
    """A dialogue as placements, rendered as sound (`train.corpus.render`) or as codes (`train.coded`)."""

    placements: list[Placement] = field(default_factory=list)
    system_words: list[Word] = field(default_factory=list)
    user_words: list[Word] = field(default_factory=list)
    events: list[dict] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    speaker: str = ""
    """The main user's name in the bank."""
    gain: float = 1.0
    """Factor on the user's channel."""
    noise: float = 0.0
    """Standard deviation of white noise in the user's channel."""
    noise_seed: int = 0
    snr_noise: float | None = None
    """Level of pink noise relative to the user's speech (dB)."""
    echo: tuple[float, float] | None = None
    """(scale, delay in seconds) of the system's voice in the user's channel."""
    reverb: float = 0.0
    """Seconds in which the user's reverberation falls by 60 dB; 0: none."""


class Library(Protocol):
    """Where clips come from: a bank of sound or of codes."""

    clips: list[Clip]

    def find(self, role: str, text: str) -> list[Clip]:
        """Clips of a name."""
        ...

    def timing(self, clip: Clip) -> tuple[float, tuple[Word, ...]]:
        """Length in seconds and word times, silence around the clip not counted."""
        ...


@dataclass
class Dialogue:
    """Two channels with exact labels. ``events``: dicts with kind, start, end (seconds) and what the kind needs."""

    system: np.ndarray
    user: np.ndarray
    system_words: list[Word]
    user_words: list[Word]
    events: list[dict]
    texts: list[tuple[str, str]]
