"""Frames that wait for the model when it falls behind, so that the delay of a conversation never grows.

A full-duplex stream has no pauses in which a backlog could heal by itself. Up to two frames are worked off back to
back; from the third on a silent one is let go, which nobody misses; from the sixth on the oldest goes whatever it
holds. Frames that a network held up come in a burst: up to five of them are all kept, since a model that is fast enough is
soon done with them, and one that is let go leaves a hole in what the system says. Pure: time is the frames that come in.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from duplex.units import seconds_to_frames


@dataclass(frozen=True)
class BacklogConfig:
    """Frames are of 80 ms."""

    keep_frames: int = 2
    """More than this many waiting: one silent frame is dropped with each that comes."""
    max_frames: int = 5
    """More than this many waiting: the oldest is dropped."""
    give_up_seconds: float = 2.0
    """A backlog above `keep_frames` for longer than this: the machine is too slow, see `overdue`."""


class FrameBacklog:
    """A bounded queue of frames; `push` counts as the passing of 80 ms."""

    def __init__(self, config: BacklogConfig = BacklogConfig()) -> None:  # noqa: B008 (frozen)
        self.config = config
        self.dropped_silent = 0
        """Silent frames let go so far."""
        self.dropped_oldest = 0
        """Frames with sound, or of unknown content, dropped so far."""
        self._frames: deque[tuple[np.ndarray, bool]] = deque()
        self._late = 0  # frames in a row that found a backlog

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def first(self) -> np.ndarray | None:
        """The frame that has waited longest; None when none waits."""
        return self._frames[0][0] if self._frames else None

    @property
    def overdue(self) -> bool:
        """Has there been a backlog for so long that the conversation should end with a reason?"""
        return self._late > seconds_to_frames(self.config.give_up_seconds)

    def push(self, frame: np.ndarray, silent: bool = False, burst: bool = False) -> int:
        """Takes the next frame; returns how many were dropped for it, 0 or 1. `burst`: what waits has come just now."""
        self._late = self._late + 1 if len(self._frames) >= self.config.keep_frames else 0
        self._frames.append((frame, silent))
        if len(self._frames) > (self.config.max_frames if burst else self.config.keep_frames):
            quiet = next((place for place, (_, silent) in enumerate(self._frames) if silent), None)
            if quiet is not None:
                del self._frames[quiet]
                self.dropped_silent += 1
                return 1
        if len(self._frames) > self.config.max_frames:
            self._frames.popleft()
            self.dropped_oldest += 1
            return 1
        return 0

    def pop(self) -> np.ndarray | None:
        """The frame that is due; None when none waits."""
        return self._frames.popleft()[0] if self._frames else None

    def clear(self) -> None:
        """Forgets what waits, without counting it."""
        self._frames.clear()
        self._late = 0
