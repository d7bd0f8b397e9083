"""Word times, diarisation segments and events from the files that lie beside a recording.

Words: the moshi-finetune layout ``{"alignments": [[word, [start, end], speaker], …]}`` or the KAME layout
``[{"speaker", "word", "start", "end"}, …]``. Segments: RTTM, or ``[{"speaker", "start", "end"}, …]``. Events: one JSON object
a line with ``kind``, ``start`` and ``end``. All times are seconds. Whatever cannot be right is an InputError that names the
file and the word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duplex import jsonfile
from duplex.errors import InputError
from duplex.jsonfile import seconds
from duplex.text import Word
from duplex.wording import show

SYSTEM_LABEL, USER_LABEL = "SPEAKER_MAIN", "SPEAKER_USER"
MAX_OVERLAP = 0.2
"""Seconds by which a speaker's word may begin before the last one ended: recognisers and engines jitter, mouths do not."""


@dataclass(frozen=True)
class SpokenWord(Word):
    """A word and the label of who says it."""

    speaker: str = SYSTEM_LABEL


@dataclass(frozen=True)
class Segment:
    """One stretch of a diarisation: who speaks from when to when, in seconds."""

    speaker: str
    start: float
    end: float


def read_json(path: Path) -> Any:
    """The content of a JSON file; InputError when it is missing or is none."""
    if not path.exists():
        raise InputError(f"{path}: no word times; write them, or make them with python -m train.annotate")
    return jsonfile.read_json(path)


def read_spoken(path: Path, max_overlap: float = MAX_OVERLAP) -> list[SpokenWord]:
    """The words of all speakers of a file in either layout, checked; each speaker's in order of time."""
    content = read_json(path)
    try:
        if isinstance(content, dict):
            words = [SpokenWord(text.strip(), seconds(start), seconds(end), speaker)
                     for text, (start, end), speaker in content["alignments"]]
        else:
            words = [SpokenWord(entry["word"].strip(), seconds(entry["start"]), seconds(entry["end"]), entry["speaker"])
                     for entry in content]
        if not all(isinstance(word.speaker, str) for word in words):
            raise TypeError("a speaker is not a string")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        layouts = "{'alignments': [[word, [start, end], speaker]]} or [{'speaker', 'word', 'start', 'end'}]"
        raise InputError(f"{path}: not a file of word times ({show(str(error), 120)}); expected {layouts}") from None
    check_times(words, path, max_overlap)
    return words


def check_times(words: Sequence[SpokenWord], path: Path, max_overlap: float = MAX_OVERLAP) -> None:
    """InputError for a word without text, with impossible, reversed or disordered times, or over its speaker's last one."""
    last: dict[str, SpokenWord] = {}
    for word in words:
        at = f"{path}: word {show(word.text)} of {show(word.speaker)} at {word.start:g} s"
        if not word.text:
            raise InputError(f"{at} has no text; remove it")
        if not (math.isfinite(word.start) and math.isfinite(word.end) and word.start >= 0):
            raise InputError(f"{at} to {word.end:g} s: times are counted in seconds from the file's start; mend them")
        if word.end < word.start:
            raise InputError(f"{at} has reversed times (it ends at {word.end:g} s); mend them")
        before = last.get(word.speaker)
        if before and word.start < before.start:
            raise InputError(f"{at} is out of order (it follows {show(before.text)} at {before.start:g} s); sort the words")
        if before and word.start < before.end - max_overlap:
            raise InputError(f"{at} overlaps {show(before.text)}, which ends at {before.end:g} s; mend the times, or "
                             "allow it with --max-overlap")
        last[word.speaker] = word


def read_segments(path: Path) -> list[Segment]:
    """The segments of an RTTM or JSON file in order of time; InputError when there are none or one is impossible."""
    try:
        if path.suffix == ".rttm":
            fields = [line.split() for line in jsonfile.read_bytes(path).decode().splitlines()]
            found = [Segment(f[7], float(f[3]), float(f[3]) + float(f[4])) for f in fields if f and f[0] == "SPEAKER"]
        else:
            found = [Segment(str(e["speaker"]), seconds(e["start"]), seconds(e["end"])) for e in read_json(path)]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        layouts = "RTTM lines or [{'speaker', 'start', 'end'}]"
        raise InputError(f"{path}: not a diarisation ({show(str(error), 120)}); expected {layouts}") from None
    if not found:
        raise InputError(f"{path}: holds no segments; diarise the recording again")
    for segment in found:
        if not 0 <= segment.start < segment.end < math.inf:
            span = f"{segment.start:g} to {segment.end:g} s"
            raise InputError(f"{path}: segment of {show(segment.speaker)} from {span} cannot be; mend it")
    return sorted(found, key=lambda segment: (segment.start, segment.end, segment.speaker))


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a .jsonl file in order of time, each with ``kind``, ``start`` and ``end``; InputError for other content."""
    events, number = [], 0
    try:
        for number, line in enumerate(jsonfile.read_bytes(path).decode().splitlines(), 1):  # noqa: B007
            event = jsonfile.parse_json(line, f"{path}: line {number}")
            start, end = seconds(event["start"]), seconds(event.get("end", event["start"]))
            if not (isinstance(event["kind"], str) and 0 <= start <= end < math.inf):
                raise ValueError("times or kind cannot be")
            events.append({**event, "start": start, "end": end})
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = show(str(error), 120)
        raise InputError(f"{path}: line {number} is no event ({reason}); expected {{'kind', 'start', 'end'}}") from None
    return sorted(events, key=lambda event: (event["start"], event["end"], event["kind"]))
