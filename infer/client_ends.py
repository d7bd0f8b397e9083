"""The user's end of the network client: a recording, or a microphone and a speaker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Protocol

import numpy as np

from duplex.audio import pad_to_frames
from duplex.playout import NETWORK, PlayoutBuffer
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS
from infer.device.echo import BLOCK, EchoCanceller, speakers_are_open
from infer.device.ports import SoundPorts

_MOST_WAITING = 12
"""Frames of the microphone that a stalled network leaves waiting, about a second; older ones are let go."""


class Ends(Protocol):
    """Where the user's frames come from and the system's sound goes to."""

    def heard(self) -> AsyncIterator[np.ndarray]:
        """The user's frames, float32 [1920] at 24 kHz, in real time."""

    def play(self, pcm: np.ndarray) -> None:
        """Takes the system's sound, float32 [S] at 24 kHz, as it comes."""

    def close(self) -> None:
        """Lets go of what is open."""


class FileEnds:
    """A recording in real time, and no speaker."""

    def __init__(self, pcm: np.ndarray):
        self.frames = pad_to_frames(pcm).reshape(-1, FRAME_SAMPLES)

    async def heard(self) -> AsyncIterator[np.ndarray]:
        begun = time.monotonic()
        for number, frame in enumerate(self.frames, start=1):
            await asyncio.sleep(max(0.0, begun + number * FRAME_SECONDS - time.monotonic()))
            yield frame

    def play(self, pcm: np.ndarray) -> None:
        pass

    def close(self) -> None:
        pass


class DeviceEnds:
    """Microphone and speaker, with a jitter buffer and echo cancellation. Opened when the first frame is asked for."""

    def __init__(self, microphone: str | None, speaker: str | None, seconds: float | None = None, echo_cancel: str = "auto"):
        self._ports = SoundPorts(microphone, speaker, self._captured, self._to_play, time.monotonic)
        self._seconds, self._echo_cancel = seconds, echo_cancel
        self._canceller: EchoCanceller | None = None
        self._playout = PlayoutBuffer(NETWORK)
        self._lock = threading.Lock()  # PortAudio calls from threads of its own
        self._rest = np.zeros(0, np.float32)
        self._queue: asyncio.Queue[np.ndarray] = asyncio.Queue(_MOST_WAITING)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def heard(self) -> AsyncIterator[np.ndarray]:
        self._loop = asyncio.get_running_loop()
        self._ports.open()
        if self._echo_cancel == "on" or (self._echo_cancel == "auto" and speakers_are_open(self._ports.names[1])):
            self._canceller = EchoCanceller()
        left = None if self._seconds is None else round(self._seconds / FRAME_SECONDS)
        while left is None or left > 0:
            yield await self._queue.get()
            left = None if left is None else left - 1

    def play(self, pcm: np.ndarray) -> None:
        with self._lock:
            self._playout.push(pcm)

    def close(self) -> None:
        self._ports.close()

    def _to_play(self, samples: int) -> np.ndarray:
        with self._lock:
            pulled = self._playout.pull(samples)
            if self._canceller is not None:
                self._canceller.far(pulled.source)
        return pulled.pcm

    def _captured(self, pcm: np.ndarray) -> None:
        self._rest = np.concatenate([self._rest, pcm])
        while len(self._rest) >= FRAME_SAMPLES:
            frame, self._rest = self._rest[:FRAME_SAMPLES], self._rest[FRAME_SAMPLES:]
            if self._canceller is not None:
                with self._lock:
                    frame = self._canceller.near(frame)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._offer, np.ascontiguousarray(frame, dtype=np.float32))

    def _offer(self, frame: np.ndarray) -> None:
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(frame)


assert FRAME_SAMPLES % BLOCK == 0  # the canceller takes whole blocks
