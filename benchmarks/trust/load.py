"""Clients in real time against a server in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import sphn
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from benchmarks.record import ROOT
from benchmarks.trust.host import Times
from duplex.audio import pad_to_frames, read_audio, to_mono
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, SAMPLE_RATE

LAST_SECONDS = 3.0
"""How long a client waits for what is still under way when it has sent its last frame."""


@dataclass
class Tally:
    """What clients sent and got; frames of 80 ms."""

    sessions: int = 0
    sent: int = 0
    received: int = 0
    dropped: int = 0
    """Of the sent ones, those that the server let go and said so."""
    errors: list[str] = field(default_factory=list)
    trips: Times = field(default_factory=Times)
    """From a frame's being sent to its answer's being there."""

    @property
    def deficit(self) -> int:
        """Frames that were never answered."""
        return self.sent - self.received

    def to_dict(self) -> dict:
        return {"sessions": self.sessions, "sent": self.sent, "received": self.received, "deficit": self.deficit,
                "dropped": self.dropped, "errors": self.errors[:20], "round_trip": self.trips.summary()}


def voice() -> np.ndarray:
    """What every client says, over and over: the demo's user, int16 frames [T, 1920] at 24 kHz."""
    pcm = pad_to_frames(to_mono(read_audio(ROOT / "duplex" / "assets" / "demo" / "user.wav")))
    return (np.clip(pcm, -1, 1) * 32767).astype("<i2").reshape(-1, FRAME_SAMPLES)


@dataclass(frozen=True)
class Host:
    """A server in a process of its own."""

    port: int
    process: subprocess.Popen

    def url(self, query: str = "audio=pcm&events=1") -> str:
        return f"ws://127.0.0.1:{self.port}/api/chat?{query}"


@contextlib.contextmanager
def hosting(*options: str, every: float = 60.0, on_line: Callable[[dict], None] = lambda line: None) -> Iterator[Host]:
    """`benchmarks.trust.host` with these options of `infer.serve`; its lines go to `on_line`, in a thread."""
    import threading

    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.trust.host", "--port", "0", "--every", str(every), *options],
                               cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        first = process.stdout.readline()
        if not first:
            raise RuntimeError(f"the server does not start; exit status {process.wait(10)}")
        reader = threading.Thread(target=lambda: [on_line(json.loads(line)) for line in process.stdout], daemon=True)
        reader.start()
        yield Host(json.loads(first)["port"], process)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        reader.join(10)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def real_time(seconds: float, phase: float = 0.0) -> AsyncIterator[int]:
    """Frame numbers in the pace of a microphone."""
    begun = time.monotonic() + phase
    for number in range(round(seconds / FRAME_SECONDS)):
        await asyncio.sleep(max(0.0, begun + number * FRAME_SECONDS - time.monotonic()))
        yield number


async def converse(host: Host, seconds: float, tally: Tally, opus: bool = False, phase: float = 0.0, seed: int = 0,
                   arrivals: list[float] | None = None) -> None:
    """One conversation in real time, Ogg/Opus or plain samples. What goes wrong is an entry in the tally.

    `arrivals` takes when each frame of the system came, in seconds of the monotonic clock.
    """
    frames, writer = voice(), sphn.OpusStreamWriter(SAMPLE_RATE)
    sent_at: dict[int, float] = {}
    dropped = sent = received = 0
    try:
        async with connect(host.url(f"audio={'opus' if opus else 'pcm'}&events=1&seed={seed}"), compression=None,
                           max_size=2**20, open_timeout=30) as socket:
            async def hear() -> None:
                nonlocal received, dropped
                async for message in socket:
                    if message[0] == 5:
                        tally.errors.append(message[1:].decode(errors="replace"))
                    if message[0] != 4:
                        continue
                    told = json.loads(message[1:])
                    if told["type"] == "frame":
                        if arrivals is not None:
                            arrivals.append(time.monotonic())
                        at = sent_at.pop(told["index"] + told["dropped"], None)
                        if at is not None:
                            tally.trips.add(time.monotonic() - at)
                        dropped, received = told["dropped"], received + 1

            while (await socket.recv())[0] != 0:
                pass
            listener = asyncio.create_task(hear())
            try:
                async for number in real_time(seconds, phase):
                    frame = frames[(number + seed) % len(frames)]
                    data = writer.append_pcm(frame.astype(np.float32) / 32768) if opus else frame.tobytes()
                    sent, sent_at[number] = sent + 1, time.monotonic()
                    if data:
                        await socket.send(b"\1" + data)
                ending = time.monotonic() + LAST_SECONDS
                while time.monotonic() < ending and received + dropped < sent:
                    await asyncio.sleep(0.02)
            finally:
                listener.cancel()
                await asyncio.gather(listener, return_exceptions=True)
    except (OSError, ConnectionClosed, asyncio.TimeoutError) as error:
        tally.errors.append(f"{type(error).__name__}: {error}")
    tally.sessions += 1
    tally.sent += sent
    tally.received += received
    tally.dropped += dropped
