"""Seats for clients, and the thread that steps the model for all of them.

The model runs in a thread of its own, so that the event loop goes on reading and writing sockets. Whenever the thread
is free and some row has a frame, it makes one step with all the rows that have one. What arrives during a step waits
for the next: a step of S seconds delays a frame by at most 2 S, and the loop keeps up as long as S stays below 80 ms.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from duplex.backlog import FrameBacklog
from duplex.conversation import SessionFrame
from duplex.errors import InputError
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS
from duplex.vad import level_db
from infer.server.limits import BAD_PAYLOAD, GOING_AWAY, INTERNAL, POLICY, TRY_LATER, ClientError, Limits, Refused
from infer.server.metrics import Metrics
from infer.server.rows import BatchedSessions

log = logging.getLogger("duplex.server")
SILENT_DB = -50.0
"""A waiting frame below this level counts as silent, and is the first to be let go."""
BURST_FRAMES = 25.0
"""So much sound may come at once, after a stall of the network; beyond that a client is held to real time ..."""
CLOCK_TOLERANCE = 1.01
"""... by its own clock, which may be this much faster."""


@dataclass(frozen=True)
class Wish:
    """What a client asks for. None: as the model recommends."""

    seed: int | None = None
    text_temperature: float | None = None
    audio_temperature: float | None = None
    persona: str | None = None
    policy: str | None = None


@dataclass(frozen=True)
class _Waiting:
    """A frame of the user and when it was complete, by the clock of the service."""

    pcm: np.ndarray
    at: float


class Seat:
    """One client's place. Used from the event loop; the model thread takes frames out under the service's lock."""

    def __init__(self, service: Service, slot: int, wish: Wish, protocol: str):
        self.service, self.slot, self.wish, self.protocol = service, slot, wish, protocol
        self.id = f"live_{secrets.token_hex(12)}"
        self.seed = secrets.randbits(31) if wish.seed is None else wish.seed
        self.ready = asyncio.Event()
        """Set when the conversation has begun: the slot is reset and the prompt is over. Sound before that is let go."""
        self.outbox: asyncio.Queue[tuple[SessionFrame, float]] = asyncio.Queue(service.limits.outbox_frames)
        self.ending: ClientError | None = None
        """Why the session must end; None while it goes on."""
        self.over = asyncio.Event()
        self.begun_at = self.heard_at = service.clock()
        self.received = self.sent = 0
        """Frames that came complete, and frames made."""
        self._backlog = FrameBacklog()
        self._rest = np.zeros(0, dtype=np.float32)
        self._late_since: float | None = None
        self._credit, self._credit_at, self._ahead = BURST_FRAMES, self.begun_at, 0
        self._ahead_since: float | None = None
        self.begun = self.left = self.told = False

    @property
    def waiting(self) -> int:
        """Frames that wait for the model."""
        return len(self._backlog)

    @property
    def dropped(self) -> int:
        """Frames of the user that were let go, silent ones included."""
        return self._backlog.dropped_silent + self._backlog.dropped_oldest + self._ahead

    def push(self, pcm: np.ndarray) -> None:
        """Takes sound of any length, float32 [S] at 24 kHz. Sound that nobody can follow is dropped and counted."""
        now = self.heard_at = self.service.clock()
        if not self.ready.is_set() or self.left:
            return
        self._rest = np.concatenate([self._rest, pcm]) if len(self._rest) else pcm
        whole = len(self._rest) // FRAME_SAMPLES
        if not whole:
            return
        frames, self._rest = self._rest[: whole * FRAME_SAMPLES], self._rest[whole * FRAME_SAMPLES :].copy()
        self.received += whole
        self.service.metrics.received.inc(whole)
        with self.service.wake:
            first: _Waiting | None = self._backlog.first  # type: ignore[assignment]
            burst = first is None or now - first.at < FRAME_SECONDS
            for frame in frames.reshape(-1, FRAME_SAMPLES)[: self._allowed(whole, now)]:
                frame = np.ascontiguousarray(frame, dtype=np.float32)
                silent, oldest = self._backlog.dropped_silent, self._backlog.dropped_oldest
                self._backlog.push(_Waiting(frame, now), level_db(frame) < SILENT_DB, burst)  # type: ignore[arg-type]
                self.service.metrics.dropped.labels("silent").inc(self._backlog.dropped_silent - silent)
                self.service.metrics.dropped.labels("oldest").inc(self._backlog.dropped_oldest - oldest)
            self._watch(now)
            self.service.wake.notify()

    def _allowed(self, frames: int, now: float) -> int:
        """How many of these frames may take up the model's time; a fast model would else follow a flood."""
        earned = (now - self._credit_at) * CLOCK_TOLERANCE / FRAME_SECONDS
        self._credit, self._credit_at = min(self._credit + earned, BURST_FRAMES), now
        allowed = min(frames, int(self._credit))
        self._credit -= allowed
        self._ahead += frames - allowed
        self.service.metrics.dropped.labels("ahead").inc(frames - allowed)
        if allowed == frames and self._credit >= BURST_FRAMES / 2:
            self._ahead_since = None
        elif allowed < frames and self._ahead_since is None:
            self._ahead_since = now
        return allowed

    def _watch(self, now: float) -> None:
        """Ends the session when its backlog, or its running ahead of time, has lasted for too long."""
        limit = self.service.limits.give_up_seconds
        if self._ahead_since is not None and now - self._ahead_since > limit:
            self.end(ClientError(POLICY, "sound comes faster than real time; send 12.5 frames a second", "ahead"))
        if self.waiting <= self._backlog.config.keep_frames:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now
        elif now - self._late_since > limit:
            self.end(ClientError(POLICY, "the server cannot follow in real time just now; try again later", "backlog"))

    def take(self) -> _Waiting | None:
        """The frame that is due; under the service's lock."""
        waiting = self._backlog.pop() if self.begun and not self.left else None
        if self.waiting <= self._backlog.config.keep_frames:
            self._late_since = None
        return waiting  # type: ignore[return-value]

    def deliver(self, frame: SessionFrame, latency: float) -> None:
        """Puts a frame of the system out for the client, with the seconds it took; in the event loop."""
        if self.ending is not None or self.left:
            return
        self.sent += 1
        try:
            self.outbox.put_nowait((frame, latency))
        except asyncio.QueueFull:
            self.end(ClientError(POLICY, "the client does not read what it is sent; read faster", "unread"))

    def end(self, error: ClientError) -> None:
        """Asks the session to end; the first reason counts. In the event loop."""
        if self.ending is None:
            self.ending = error
            self.over.set()
            self.ready.set()

    def leave(self, cause: str) -> None:
        """Gives the slot back; harmless when it was given back before."""
        self.service.release(self, cause)


class Service:
    """Slots, seats and the model thread. Create it, `start` it inside a running event loop, `stop` it at the end."""

    def __init__(self, batch: BatchedSessions, limits: Limits | None = None, metrics: Metrics | None = None,
                 clock: Callable[[], float] = time.monotonic):
        self.batch, self.clock = batch, clock
        self.limits = limits or Limits(slots=batch.slots)
        self.metrics = metrics or Metrics()
        self.metrics.slots.set(batch.slots)
        self.wake = threading.Condition()
        self.draining = False
        self._seats: list[Seat | None] = [None] * batch.slots
        self._commands: list[Callable[[], None]] = []
        self._stopping = False
        self._empty: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="duplex-model", daemon=True)

    @property
    def seats(self) -> list[Seat]:
        """The sessions that are running."""
        return [seat for seat in self._seats if seat is not None]

    def start(self) -> None:
        """Starts the model thread; frames are delivered in the event loop that runs now."""
        self._loop = asyncio.get_running_loop()
        self._empty = asyncio.Event()
        self._empty.set()
        self._thread.start()

    def stop(self) -> None:
        """Ends the model thread after its step."""
        with self.wake:
            self._stopping = True
            self.wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    async def drain(self, seconds: float) -> None:
        """Admits nobody any more, waits so long for the sessions to end, then ends the rest with a reason."""
        self.draining = True
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)  # type: ignore[union-attr]
        except asyncio.TimeoutError:
            for seat in self.seats:
                seat.end(ClientError(GOING_AWAY, "the server is shutting down; connect again later", "drained"))
            try:
                await asyncio.wait_for(self._empty.wait(), 3)  # type: ignore[union-attr]
            except asyncio.TimeoutError:
                log.warning("sessions did not end in time: %d", len(self.seats))

    def refusal(self) -> Refused | None:
        """Why a client could not be admitted now; None when it could."""
        if self.draining:
            return Refused(GOING_AWAY, "the server is shutting down; connect again later", "draining")
        if None not in self._seats:
            slots = self.batch.slots
            return Refused(TRY_LATER, f"all {slots} places are taken; try again later" if slots > 1 else
                           "the one place is taken; try again later", "full")
        return None

    def admit(self, wish: Wish, protocol: str) -> Seat:
        """A seat for a client, at once. Raises Refused with the reason, ClientError for a wish that cannot be met."""
        refusal = self.refusal()
        if refusal is not None:
            self.metrics.refused.labels(refusal.label).inc()
            raise refusal
        try:
            self.batch.check_persona(wish.persona)
        except InputError as error:
            raise ClientError(BAD_PAYLOAD, str(error), "persona") from None
        slot = self._seats.index(None)
        seat = self._seats[slot] = Seat(self, slot, wish, protocol)
        self._empty.clear()  # type: ignore[union-attr]
        self.metrics.admitted.labels(protocol).inc()
        self.metrics.sessions.set(len(self.seats))
        self._order(lambda: self._begin(seat))
        return seat

    def release(self, seat: Seat, cause: str) -> None:
        """Takes a seat back and frees its slot for the next client."""
        if seat.left:
            return
        with self.wake:
            seat.left = True
            self._seats[seat.slot] = None
        self.metrics.ended.labels(cause).inc()
        self.metrics.sessions.set(len(self.seats))
        if not self.seats:
            self._empty.set()  # type: ignore[union-attr]
        self._order(lambda: self._end(seat))

    def _order(self, command: Callable[[], None]) -> None:
        """Has the model thread do something between two steps, in the order of the calls."""
        with self.wake:
            self._commands.append(command)
            self.wake.notify()

    # From here on: the model thread.

    def _begin(self, seat: Seat) -> None:
        wish = seat.wish
        if seat.left:
            return
        try:
            self.batch.start(seat.slot, seat.seed, wish.text_temperature, wish.audio_temperature, wish.persona, wish.policy)
            seat.begun = True
        except Exception:
            self._post(seat.end, ClientError(INTERNAL, "the conversation could not be begun; connect again", "crash"))
            raise

    def _end(self, seat: Seat) -> None:
        if seat.begun:
            self.batch.stop(seat.slot)

    def _post(self, call: Callable[..., None], *values: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *values)  # type: ignore[union-attr]
        except RuntimeError:  # the event loop is closed: nobody listens any more
            self._stopping = True

    def _gather(self) -> tuple[list[Callable[[], None]], dict[int, tuple[Seat, _Waiting]], bool]:
        """Waits for something to do: commands, or the frames of the next step and whether some row needs a prompt's."""
        with self.wake:
            while True:
                commands, self._commands = self._commands, []
                if commands or self._stopping:
                    return commands, {}, False
                due, preparing = {}, False
                for seat in self.seats:
                    if seat.begun and self.batch.preparing(seat.slot):
                        preparing = True
                        continue
                    if seat.begun and not seat.told:
                        seat.told = True
                        self._post(seat.ready.set)
                    waiting = seat.take()
                    if waiting is not None:
                        due[seat.slot] = (seat, waiting)
                if due or preparing:
                    return [], due, preparing
                self.wake.wait()

    def _run(self) -> None:
        while True:
            commands, due, preparing = self._gather()
            for command in commands:
                try:
                    command()
                except Exception:
                    log.exception("a conversation could not be begun or ended")
            if self._stopping:
                return
            if due or preparing:
                self._step(due)

    def _step(self, due: dict[int, tuple[Seat, _Waiting]]) -> None:
        begun, cpu = self.clock(), time.thread_time()
        try:
            results = self.batch.step({slot: waiting.pcm for slot, (_, waiting) in due.items()})
        except Exception:
            log.exception("a step of the model failed")
            self.metrics.crashes.inc()
            self._post(self._give_up)
            return
        now = self.clock()
        self.metrics.step.observe(now - begun)
        self.metrics.step_cpu.observe(time.thread_time() - cpu)
        ready = []
        for slot, result in results.items():
            seat, waiting = due[slot]
            self.metrics.latency.observe(now - waiting.at)
            self.metrics.late.inc(now - waiting.at > FRAME_SECONDS)
            ready.append((seat, result, now - waiting.at))
        self._post(self._deliver, ready)

    # Again in the event loop.

    def _deliver(self, ready: list[tuple[Seat, SessionFrame | Exception, float]]) -> None:
        for seat, result, latency in ready:
            if isinstance(result, Exception):
                log.error("session %s: a frame failed", seat.id, exc_info=result)
                seat.end(ClientError(INTERNAL, "an internal error ended this session; connect again", "crash"))
            else:
                self.metrics.frames.inc()
                seat.deliver(result, latency)

    def _give_up(self) -> None:
        for seat in self.seats:
            seat.end(ClientError(INTERNAL, "an internal error ended all sessions; connect again", "crash"))
