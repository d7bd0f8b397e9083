"""Who holds the floor: speech activity of both sides (duplex.vad) to typed events and their statistics.

Everything here is pure and causal: a tracker sees one frame of both sides at a time, decides with what it has
heard, and says in each event both when the thing happened (`time`) and when that could be known (`known`).
Times are multiples of the 80 ms frame, which is the resolution of every figure below.

Speech is cut into stretches bounded by more than 0.2 s of silence, the inter-pausal units of
arXiv:2203.16502 (section 4.2), which the Moshi paper reports as well (arXiv:2410.00037, section 5.6).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from statistics import median

from duplex.errors import ConfigError
from duplex.units import frames_to_seconds, seconds_to_frame, seconds_to_frames


class EventKind(Enum):
    """What can happen between two speakers. `Event.seconds` is given in brackets."""

    USER_START = "user_start"  # (silence since the system stopped, if this answers it)
    USER_STOP = "user_stop"  # (length of the stretch of speech)
    SYSTEM_START = "system_start"  # (silence since the user stopped, if this answers them: response latency)
    SYSTEM_STOP = "system_stop"  # (length of the stretch of speech)
    OVERLAP_START = "overlap_start"
    OVERLAP_STOP = "overlap_stop"  # (length of the overlap)
    BACKCHANNEL = "backchannel"  # short user speech over the system, which goes on (its length)
    BARGE_IN = "barge_in"  # the user starts over the system and means it: goes on, or the system stops
    YIELDED = "yielded"  # the system fell silent soon after a barge-in (time since the user's start)
    FALSE_YIELD = "false_yield"  # ... but the user said no more than a backchannel (length of what they said)
    TRUNCATED = "truncated"  # playback was cut: the rest of what the system was saying is not heard
    RESUMED = "resumed"  # first system speech after it yielded (time since it fell silent)


@dataclass(frozen=True)
class Event:
    """One event. `time`: when it happened; `known`: when it could be told; both in seconds from frame 0."""

    kind: EventKind
    time: float
    known: float
    seconds: float | None = None
    """The measure that belongs to the kind, see EventKind; None where there is none."""

    def to_dict(self) -> dict[str, str | float | None]:
        seconds = None if self.seconds is None else round(self.seconds, 3)
        return {"kind": self.kind.value, "time": round(self.time, 3), "known": round(self.known, 3),
                "seconds": seconds}


@dataclass(frozen=True)
class TurnConfig:
    """When activity counts as speech and speech as a turn."""

    start_frames: int = 2
    """Active frames in a row that make speech; a single one is taken for a click."""
    pause_frames: int = 3
    """Silent frames that end a stretch of speech (0.24 s, the first multiple of a frame beyond 0.2 s)."""
    backchannel_seconds: float = 0.7
    """User speech over the system up to this length is a backchannel when the system goes on. It may lie across the
    grid, so that it is told by the frames that it can touch at most."""
    yield_seconds: float = 2.0
    """A system that falls silent within this time of a barge-in has yielded to it ..."""
    reaction_frames: int = 2
    """... unless it did so within these frames: that soon it was finishing anyhow, and nobody barged in."""

    def __post_init__(self) -> None:
        if not 1 <= self.start_frames <= self.pause_frames:
            raise ConfigError(f"start_frames must lie in 1..pause_frames ({self.pause_frames}), "
                              f"not be {self.start_frames}")


DEFAULT_TURNS = TurnConfig()


@dataclass
class _Side:
    """Speech of one side, in frames; `first` and `end` are the bounds of its current or last stretch."""

    speaking: bool = False
    active: bool = False
    first: int = 0
    end: int = -1  # frame after the last active one; -1: never spoke
    previous_end: int = -1  # the same of the stretch before
    run: int = 0  # active frames in a row

    def push(self, frame: int, active: bool, config: TurnConfig) -> str | None:
        """Takes one frame; returns "start" or "stop" when one has just been established."""
        self.active = active
        self.run = self.run + 1 if active else 0
        if self.speaking:
            if active:
                self.end = frame + 1
            elif frame + 1 - self.end >= config.pause_frames:
                self.speaking = False
                return "stop"
        elif self.run >= config.start_frames:
            self.previous_end = self.end
            self.speaking, self.first, self.end = True, frame + 1 - self.run, frame + 1
            return "start"
        return None


@dataclass
class _Intrusion:
    """User speech that began over the system's, until it is clear what became of it. Frames."""

    start: int
    length: int = 0
    over: bool = False  # the user has stopped
    barge_in: bool = False  # reported as one
    yielded: int | None = None  # frame in which the system fell silent
    judged: bool = False  # the yield has been found true or false


class TurnTracker:
    """Turns two streams of activity into events. Feed it every frame and `flush` it at the end."""

    def __init__(self, config: TurnConfig = DEFAULT_TURNS):
        self.config = config
        self.frame = 0
        self._system = _Side()
        self._user = _Side()
        self._overlap: int | None = None
        self._intrusion: _Intrusion | None = None

    def push(self, system_active: bool, user_active: bool) -> tuple[Event, ...]:
        """Takes the activity of one frame; returns the events that it settles, in order of their times."""
        system = self._system.push(self.frame, system_active, self.config)
        user = self._user.push(self.frame, user_active, self.config)
        events = self._events(system, user)
        self.frame += 1
        return events

    def flush(self) -> tuple[Event, ...]:
        """Ends the speech that is still going on, as if both sides fell silent now."""
        changes = []
        for side in (self._system, self._user):
            changes.append("stop" if side.speaking else None)
            side.speaking = side.active = False
        self._intrusion = None  # an end of the recording is no reaction of the system
        self.frame -= 1  # known since the last frame
        events = self._events(*changes)
        self.frame += 1
        return events

    def clone(self) -> TurnTracker:
        return copy.deepcopy(self)

    def to_dict(self) -> dict[str, object]:
        """Everything but the configuration, as plain values."""
        return {"frame": self.frame, "system": asdict(self._system), "user": asdict(self._user),
                "overlap": self._overlap, "intrusion": asdict(self._intrusion) if self._intrusion else None}

    @classmethod
    def from_dict(cls, values: dict, config: TurnConfig = DEFAULT_TURNS) -> TurnTracker:
        tracker = cls(config)
        tracker.frame, tracker._overlap = values["frame"], values["overlap"]
        tracker._system, tracker._user = _Side(**values["system"]), _Side(**values["user"])
        tracker._intrusion = _Intrusion(**values["intrusion"]) if values["intrusion"] else None
        return tracker

    def _events(self, system: str | None, user: str | None) -> tuple[Event, ...]:
        events: list[Event] = []
        now = frames_to_seconds(self.frame + 1)

        def tell(kind: EventKind, frame: int, frames: int | None = None) -> None:
            seconds = None if frames is None else frames_to_seconds(frames)
            events.append(Event(kind, frames_to_seconds(frame), now, seconds))

        sides = ((self._user, self._system, user, EventKind.USER_START, EventKind.USER_STOP),
                 (self._system, self._user, system, EventKind.SYSTEM_START, EventKind.SYSTEM_STOP))
        for side, other, change, start, stop in sides:
            if change == "start":
                tell(start, side.first, self._gap(side, other))
            elif change == "stop":
                tell(stop, side.end, side.end - side.first)
        self._tell_overlap(tell)
        if self._intrusion is not None:
            self._tell_intrusion(self._intrusion, system, tell)
        return tuple(sorted(events, key=lambda event: event.time))

    @staticmethod
    def _gap(side: _Side, other: _Side) -> int | None:
        """Frames of silence between the other side's last speech and this start; None if it answers none."""
        answers = side.previous_end < other.end <= side.first
        return side.first - other.end if answers else None

    def _tell_overlap(self, tell: _Tell) -> None:
        system, user = self._system, self._user
        first, end = max(system.first, user.first), min(system.end, user.end)
        if self._overlap is None:
            if system.speaking and user.speaking and first < end:
                self._overlap = first
                tell(EventKind.OVERLAP_START, first)
                if system.first < user.first and self._intrusion is None:
                    self._intrusion = _Intrusion(user.first)
        elif not (system.speaking and user.speaking):
            tell(EventKind.OVERLAP_STOP, end, end - self._overlap)
            self._overlap = None

    def _tell_intrusion(self, intrusion: _Intrusion, system: str | None, tell: _Tell) -> None:
        if self._user.first == intrusion.start:
            intrusion.length, intrusion.over = self._user.end - intrusion.start, not self._user.speaking
        short = intrusion.length <= seconds_to_frames(self.config.backchannel_seconds) + 1
        since_start = self._system.end - intrusion.start  # how long the system has gone on beside the user
        if intrusion.yielded is not None:
            if intrusion.over and not intrusion.judged:
                intrusion.judged = True
                if short:
                    tell(EventKind.FALSE_YIELD, intrusion.start + intrusion.length, intrusion.length)
            if system == "start":
                tell(EventKind.RESUMED, self._system.first, self._system.first - intrusion.yielded)
                self._intrusion = None
            return
        if system == "stop" and since_start <= self.config.reaction_frames:
            self._intrusion = None
            return
        if not intrusion.barge_in and (system == "stop" or not short):
            intrusion.barge_in = True
            tell(EventKind.BARGE_IN, intrusion.start)
        if since_start > seconds_to_frame(self.config.yield_seconds):
            self._intrusion = None  # it went on regardless
        elif system == "stop":
            intrusion.yielded = self._system.end
            tell(EventKind.YIELDED, self._system.end, since_start)
            self._tell_intrusion(intrusion, None, tell)
        elif not intrusion.barge_in and intrusion.over and self._system.active:
            tell(EventKind.BACKCHANNEL, intrusion.start, intrusion.length)
            self._intrusion = None


_Tell = Callable[..., None]


@dataclass(frozen=True)
class TurnSummary:
    """Statistics of one dialogue; times in seconds. Every list keeps the order of the dialogue."""

    seconds: float
    user_speech_seconds: float
    system_speech_seconds: float
    overlap_seconds: float
    response_latencies: tuple[float, ...]
    """Per answer of the system: silence from the user's stop to its start; a start over the user has none."""
    starts_over_user: int
    """Times that the system started while the user was speaking."""
    backchannels: int
    barge_ins: int
    times_to_yield: tuple[float, ...]
    """Per barge-in that the system yielded to: from the user's start to its silence."""
    false_yields: int

    @property
    def median_response_latency(self) -> float | None:
        return median(self.response_latencies) if self.response_latencies else None

    def to_dict(self) -> dict[str, float | int | list[float] | None]:
        values = {name: [round(v, 3) for v in value] if isinstance(value, tuple) else round(value, 3)
                  for name, value in asdict(self).items()}
        return {**values, "median_response_latency": self.median_response_latency}


def summarise(events: Iterable[Event], seconds: float) -> TurnSummary:
    """Statistics of the events of a dialogue of `seconds`, a flushed tracker's included."""
    by_kind: dict[EventKind, list[Event]] = {kind: [] for kind in EventKind}
    for event in sorted(events, key=lambda event: event.time):
        by_kind[event.kind].append(event)

    def total(kind: EventKind) -> float:
        return sum(event.seconds or 0.0 for event in by_kind[kind])

    def measures(kind: EventKind) -> tuple[float, ...]:
        return tuple(event.seconds for event in by_kind[kind] if event.seconds is not None)

    starts = {event.time for event in by_kind[EventKind.OVERLAP_START]}
    return TurnSummary(
        seconds=seconds,
        user_speech_seconds=total(EventKind.USER_STOP),
        system_speech_seconds=total(EventKind.SYSTEM_STOP),
        overlap_seconds=total(EventKind.OVERLAP_STOP),
        response_latencies=measures(EventKind.SYSTEM_START),
        starts_over_user=sum(event.time in starts for event in by_kind[EventKind.SYSTEM_START]),
        backchannels=len(by_kind[EventKind.BACKCHANNEL]),
        barge_ins=len(by_kind[EventKind.BARGE_IN]),
        times_to_yield=measures(EventKind.YIELDED),
        false_yields=len(by_kind[EventKind.FALSE_YIELD]),
    )


def speech_spans(events: Iterable[Event], side: str) -> list[tuple[float, float]]:
    """(start, stop) in seconds of each stretch of speech of `side` ("user" or "system")."""
    stop = EventKind(f"{side}_stop")
    return sorted((event.time - event.seconds, event.time) for event in events
                  if event.kind is stop and event.seconds is not None)
