"""Bad lines: in simulated time between a microphone and a playout buffer, and in real time between a client and a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np

from duplex.playout import PlayoutBuffer, PlayoutConfig
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE
from infer.conditions import TICK, TICK_MS, Conditions, Link

BAD = Conditions(delay_ms=50, jitter_ms=30, stall_share=0.02, stall_ms=200)
_CHUNK = np.full(FRAME_SAMPLES, 0.1, np.float32)
_TOGETHER_SECONDS = 0.005
_BURST = 30
"""Ticks in which what was held up comes."""


@dataclass(frozen=True)
class Played:
    """What a loudspeaker got of a conversation."""

    underrun_share: float
    dropped_ms: float
    delay_ms: float
    """Mean, of the second half."""
    log: np.ndarray
    """Rows of (time in ms, delay, wanted delay), one for every 10 ms."""
    stalls_ms: tuple[float, ...]
    """When frames that were held up came."""

    def back_after(self, within_ms: float, warm_seconds: float) -> np.ndarray:
        """Seconds from each stall that begins after the warming up until the delay is as wanted again; [stalls].

        Counted from when what was held up came; a further stall in between counts into it.
        """
        found, off = [], np.abs(self.log[:, 1] - self.log[:, 2])
        for at in self.stalls_ms:
            came = int(at / TICK_MS)
            later = off[came + _BURST : came + 3000] <= within_ms
            if at > 1000 * warm_seconds and later.any():
                found.append((_BURST + int(np.argmax(later))) * TICK_MS / 1000)
        return np.array(found)


def simulated(seconds: float, seed: int, config: PlayoutConfig, up: bool = True) -> Played:
    """A bad line to the speaker, and with `up` another one from the microphone; the server answers at once."""
    there: Link[float] = Link(BAD if up else Conditions(), 2 * seed + 1)
    back: Link[float] = Link(BAD, 2 * seed + 2)
    buffer, log, stalls = PlayoutBuffer(config), [], []
    for tick in range(1, int(1000 * seconds / TICK_MS) + 1):
        now = TICK_MS * tick
        if tick % 8 == 0:
            there.send(now, now)
        for sent in there.arrived(now):
            back.send(sent, now)
            _note(stalls, sent, now)
        for sent in back.arrived(now):
            buffer.push(_CHUNK)
            _note(stalls, sent, now)
        buffer.pull(TICK)
        log.append((now, buffer.delay_ms, buffer.target_ms))
    return _played(buffer, log, stalls)


def replayed(arrivals: Sequence[float], config: PlayoutConfig) -> Played:
    """What a loudspeaker would have got of frames that came at these times (seconds)."""
    buffer, log, stalls, number = PlayoutBuffer(config), [], [], 0
    first = arrivals[0]
    for tick in range(int(100 * (arrivals[-1] - first))):
        while number < len(arrivals) and 100 * (arrivals[number] - first) <= tick + 1e-6:
            buffer.push(_CHUNK)
            number += 1
        buffer.pull(TICK)
        log.append((TICK_MS * (tick + 1), buffer.delay_ms, buffer.target_ms))
    return _played(buffer, log, stalls)


def drifted(seconds: float, ppm: float, config: PlayoutConfig) -> tuple[float, PlayoutBuffer]:
    """An even source and a loudspeaker whose clock is off; the greatest distance of the delay from what is wanted, in ms."""
    buffer, worst, given = PlayoutBuffer(config), 0.0, 0
    period = 0.02 / (1 + ppm * 1e-6)
    for pull in range(int(seconds / period)):
        while given * FRAME_SAMPLES / SAMPLE_RATE <= pull * period:
            buffer.push(_CHUNK)
            given += 1
        buffer.pull(2 * TICK)
        if pull > 200:
            worst = max(worst, abs(buffer.delay_ms - buffer.target_ms))
    return worst, buffer


def _note(stalls: list[float], sent: float, now: float) -> None:
    if now - sent >= BAD.stall_ms and (not stalls or now - stalls[-1] > BAD.stall_ms):
        stalls.append(now)


def _played(buffer: PlayoutBuffer, log: list, stalls: list[float]) -> Played:
    rows = np.array(log)
    return Played(buffer.counters.underrun / max(buffer.counters.played, 1), buffer.counters.dropped / (SAMPLE_RATE / 1000),
                  float(rows[len(rows) // 2 :, 1].mean()), rows, tuple(stalls))


@contextlib.asynccontextmanager
async def shaped(port: int, seed: int, conditions: Conditions = BAD) -> AsyncIterator[int]:
    """A port that leads to the server's by a bad line in both directions. What comes together stays together."""
    tasks: set[asyncio.Task] = set()
    loop = asyncio.get_running_loop()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: np.random.Generator) -> None:
        last = came = 0.0
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                at, data = await queue.get()
                await asyncio.sleep(max(at - loop.time(), 0))
                writer.write(data)
                if not data:
                    writer.close()
                    return

        delivery = asyncio.create_task(deliver())
        tasks.add(delivery)
        while True:
            data = await reader.read(65_536)
            now = loop.time()
            if now - came > _TOGETHER_SECONDS:
                late = rng.uniform(-1, 1) * conditions.jitter_ms + conditions.stall_ms * (rng.random() < conditions.stall_share)
                last = max(last, now + (conditions.delay_ms + late) / 1000)
            came = now
            queue.put_nowait((last, data))
            if not data:
                return

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        tasks.update((asyncio.create_task(pump(reader, back, np.random.default_rng(2 * seed + 1))),
                      asyncio.create_task(pump(there, writer, np.random.default_rng(2 * seed + 2)))))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
