"""Scores of Full-Duplex-Bench over the items of a task, exact and corrected, as Estimates by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks import segments
from benchmarks.folders import chunks, people, window
from benchmarks.items import Item
from benchmarks.statistics import Estimate, mean
from benchmarks.systems import Response
from duplex.metrics import fullduplex as fdb
from duplex.metrics.behaviour import first_onset, silent_from, speaking_at
from duplex.metrics.turntaking import Segment
from duplex.text import Word
from duplex.vad import activity

Triple = tuple[Item, Response, Sequence[Word]]
"""An item, what a system did with it, and the words that were heard in that."""


def public_scores(task: str, triples: Sequence[Triple], exact: bool) -> dict[str, Estimate]:
    """The measures of v1 of a task: ``tor`` and ``latency`` (mean over take-overs), or what the backchannel task has."""
    if task == "report":
        return _listening(triples, exact)
    found = [_take_over(task, item, words, exact) for item, _, words in triples if task in ("pause", "turn", "interruption")]
    if not found:
        return {}
    result = {"tor": mean([one.taken for one in found])}
    if task != "pause":
        result["latency"] = mean([one.latency for one in found if one.latency is not None])
    return result


def _take_over(task: str, item: Item, words: Sequence[Word], exact: bool) -> fdb.TakeOver:
    said = [chunk for chunk in chunks(words) if chunk[1] < window(item, "v1")]
    if task == "pause":
        return fdb.exact_take_over(said) if exact else fdb.corrected_pause(said, [item.marks["pause"]])
    if task == "turn":
        end = item.marks["turn"][1]
        return fdb.exact_take_over(said, end) if exact else fdb.corrected_turn(said, end)
    event = item.marks["event"]
    after = [chunk for chunk in said if chunk[1] >= event[1]]  # the public recogniser hears only what follows
    return fdb.exact_take_over(after, event[1]) if exact else fdb.corrected_interruption(said, event)


def _listening(triples: Sequence[Triple], exact: bool) -> dict[str, Estimate]:
    found = [fdb.backchannels(segments.speech(response.pcm), chunks(words), item.seconds, people(item), exact)
             for item, response, words in triples]
    return {"tor": mean([b.taken for b in found]), "frequency": mean([b.per_second for b in found]),
            "jsd": mean([b.divergence for b in found])}


def latencies(triples: Sequence[Triple], exact: bool) -> dict[str, Estimate]:
    """The latencies of v1.5: mean ``stop`` and ``response``.

    Exact: every stretch in which both speak, every answer to the end of user speech. Corrected: at the event alone, and only
    where the system was speaking when it began; a system that never stops, or never speaks again, has no latency there.
    """
    stop: list[float] = []
    response: list[float] = []
    for item, given, _ in triples:
        if exact:
            sides = _user_speech(item.user), segments.speech(given.pcm)
            stop += [end - start for start, end in fdb.stop_intervals(*sides)]
            response += [end - start for start, end in fdb.response_intervals(*sides)]
            continue
        active, (start, end) = activity(given.pcm), item.marks["event"]
        if not speaking_at(active, start):
            continue
        silent = silent_from(active, start)
        if silent < item.seconds:
            stop.append(silent)
            again = first_onset(active, max(end - 0.48, start + silent), item.seconds)
            response += [] if again is None else [max(0.0, again - end)]
    return {"stop": mean(stop), "response": mean(response)}


_HEARD: dict[int, tuple[np.ndarray, list[Segment]]] = {}


def _user_speech(pcm: np.ndarray) -> list[Segment]:
    """Speech of a recording that every system hears: it is looked for once."""
    if id(pcm) not in _HEARD:
        _HEARD[id(pcm)] = pcm, segments.speech(pcm)  # the recording is held, so that no other one takes its number
    return _HEARD[id(pcm)][1]
