"""Turn-taking statistics of a two-channel dialogue, after dGSLM (arXiv:2203.16502, section 4.2) and Moshi
(arXiv:2410.00037, section 5.6).

An inter-pausal unit (IPU) is speech of one speaker bounded by more than 0.2 s of that speaker's silence. Silence of both
speakers between two IPUs is a *pause* when one speaker ends and goes on, and a *gap* when the other one goes on. *Overlap*
is time inside an IPU of both. A *turn* is a run of IPUs of one speaker that only pauses separate.

IPUs, pauses and gaps count both channels together, so that IPU + pause + gap - overlap is the length of the dialogue, but for
the silence before the first and after the last IPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median

from duplex.errors import InputError
from duplex.units import FRAME_SECONDS

Segment = tuple[float, float]
"""(start, end) in seconds."""

IPU_SILENCE = 0.2
"""Silence of a speaker, in seconds, beyond which an IPU ends."""
_EXACT = 1e-9  # times that differ by less are one time


@dataclass(frozen=True)
class Events:
    """What lies on the time axis of one dialogue; all lists hold (start, end) in seconds, in order."""

    system_ipus: tuple[Segment, ...]
    user_ipus: tuple[Segment, ...]
    pauses: tuple[Segment, ...]
    gaps: tuple[Segment, ...]
    overlaps: tuple[Segment, ...]
    system_turns: tuple[Segment, ...]
    user_turns: tuple[Segment, ...]
    transfers: tuple[float, ...]
    """Seconds from the end of a turn to the start of the other speaker's next one; negative where they overlap."""


def segments_of(activity: Iterable[bool], step: float = FRAME_SECONDS) -> list[Segment]:
    """Runs of True in frames of ``step`` seconds, as (start, end) in seconds."""
    found: list[Segment] = []
    first: int | None = None
    number = 0
    for number, active in enumerate([*activity, False]):
        if active and first is None:
            first = number
        elif not active and first is not None:
            found.append((first * step, number * step))
            first = None
    return found


def join(segments: Iterable[Segment], silence: float) -> list[Segment]:
    """Sorted segments; those with at most ``silence`` seconds between them become one."""
    joined: list[Segment] = []
    for start, end in sorted((float(a), float(b)) for a, b in segments):
        if joined and start - joined[-1][1] <= silence + _EXACT:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def intersect(left: Sequence[Segment], right: Sequence[Segment]) -> list[Segment]:
    """Stretches that lie in both lists; each list is sorted and free of overlap."""
    found, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if end - start > _EXACT:
            found.append((start, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return found


def turn_events(system_segments: Iterable[Segment], user_segments: Iterable[Segment], duration: float) -> Events:
    """IPUs, pauses, gaps, overlaps and turns of a dialogue of ``duration`` seconds.

    Segments are speech as a detector gives it, before short silences are closed; what lies beyond the dialogue is cut off.
    Raises InputError for a duration or a segment that cannot be.
    """
    if not (math.isfinite(duration) and duration > 0):
        raise InputError(f"a dialogue of {duration} s has no turn-taking statistics; give its length in seconds")
    sides = [join(_inside(segments, duration), IPU_SILENCE) for segments in (system_segments, user_segments)]
    silences, speech = {"pause": [], "gap": []}, join([*sides[0], *sides[1]], 0.0)
    for (_, end), (start, _) in zip(speech, speech[1:], strict=False):
        ended = {side for side in (0, 1) if any(abs(e - end) <= _EXACT for _, e in sides[side])}
        begun = {side for side in (0, 1) if any(abs(s - start) <= _EXACT for s, _ in sides[side])}
        silences["pause" if ended & begun else "gap"].append((end, start))
    turns, transfers = _turns(sides)
    return Events(tuple(sides[0]), tuple(sides[1]), tuple(silences["pause"]), tuple(silences["gap"]),
                  tuple(intersect(*sides)), tuple(turns[0]), tuple(turns[1]), tuple(transfers))


def turn_taking_statistics(system_segments: Iterable[Segment], user_segments: Iterable[Segment], duration: float) -> dict:
    """Rates of a dialogue, ready for JSON; segments as for `turn_events`.

    ``ipu``, ``pause``, ``gap``, ``overlap`` and ``turn`` each have ``count``, ``seconds`` (their sum), ``per_minute``,
    ``seconds_per_minute`` and ``mean_seconds`` (None without any). ``system_share`` and ``user_share`` are the parts of the time
    in which each speaks, ``transfer_median_s`` the median time from the end of a turn to the other's next (negative: overlap).
    """
    events = turn_events(system_segments, user_segments, duration)
    spans = {"ipu": [*events.system_ipus, *events.user_ipus], "pause": events.pauses, "gap": events.gaps,
             "overlap": events.overlaps, "turn": [*events.system_turns, *events.user_turns]}
    result: dict = {"seconds": duration}
    for name, found in spans.items():
        lengths = [end - start for start, end in found]
        result[name] = {"count": len(lengths), "seconds": sum(lengths), "per_minute": 60 * len(lengths) / duration,
                        "seconds_per_minute": 60 * sum(lengths) / duration,
                        "mean_seconds": mean(lengths) if lengths else None}
    result["system_share"] = sum(end - start for start, end in events.system_ipus) / duration
    result["user_share"] = sum(end - start for start, end in events.user_ipus) / duration
    result["transfer_median_s"] = median(events.transfers) if events.transfers else None
    return result


def pooled(statistics: Sequence[dict]) -> dict:
    """The statistics of several dialogues as if they were one: counts and seconds are added, rates follow from the sums.

    ``transfer_median_s`` becomes the median of the dialogues' medians. Raises InputError for none.
    """
    if not statistics:
        raise InputError("no dialogue to take statistics of; give at least one")
    duration = sum(s["seconds"] for s in statistics)
    result: dict = {"seconds": duration, "dialogues": len(statistics)}
    for name in ("ipu", "pause", "gap", "overlap", "turn"):
        count, seconds = sum(s[name]["count"] for s in statistics), sum(s[name]["seconds"] for s in statistics)
        result[name] = {"count": count, "seconds": seconds, "per_minute": 60 * count / duration,
                        "seconds_per_minute": 60 * seconds / duration, "mean_seconds": seconds / count if count else None}
    for name in ("system_share", "user_share"):
        result[name] = sum(s[name] * s["seconds"] for s in statistics) / duration
    medians = [s["transfer_median_s"] for s in statistics if s["transfer_median_s"] is not None]
    result["transfer_median_s"] = median(medians) if medians else None
    return result


def _inside(segments: Iterable[Segment], duration: float) -> list[Segment]:
    """The parts of segments within the dialogue; InputError for one that is none."""
    kept = []
    for start, end in segments:
        if not (math.isfinite(start) and math.isfinite(end) and start <= end):
            raise InputError(f"a stretch of speech from {start} to {end} s cannot be; give (start, end) in seconds")
        start, end = max(0.0, float(start)), min(float(end), duration)
        if end > start:
            kept.append((start, end))
    return kept


def _turns(sides: Sequence[Sequence[Segment]]) -> tuple[list[list[Segment]], list[float]]:
    """Turns of each side and the transfers between them.

    IPUs are taken in the order of their starts; one that lies wholly inside the other's running turn (a backchannel, or a try)
    is a turn of its own that does not end the other's.
    """
    order = sorted((start, end, side) for side in (0, 1) for start, end in sides[side])
    turns: list[list[Segment]] = [[], []]
    transfers: list[float] = []
    holder: int | None = None
    for start, end, side in order:
        other = turns[1 - side][-1] if turns[1 - side] else None
        if holder == side:
            turns[side][-1] = turns[side][-1][0], end
        elif other is not None and end <= other[1]:
            turns[side].append((start, end))
        else:
            if other is not None:
                transfers.append(start - other[1])
            turns[side].append((start, end))
            holder = side
    return turns, transfers
