"""From the files of one recording to two tracks with the words and events of both speakers.

Stereo is taken as it is: left the system, right the user, unless told otherwise. A mono recording with a diarisation is
split as in Moshi's post-training (arXiv:2410.00037, section 4.4): the system's track is the recording where the system's
speaker talks and silence elsewhere, the user's track is all the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duplex.audio import read_audio
from duplex.errors import InputError
from duplex.text import Word
from duplex.turns import Event, EventKind, TurnTracker, speech_spans
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE, frames_to_samples
from train.own.labels import (
    MAX_OVERLAP,
    SYSTEM_LABEL,
    USER_LABEL,
    Segment,
    SpokenWord,
    read_events,
    read_segments,
    read_spoken,
)
from train.own.layout import Item
from train.own.speech import frames_of, span_mask, speech_mask

LATE_WORDS = 1.0
"""Seconds by which the last word may outlast the recording, which may have been cut within it."""
FADE = 240
"""Samples over which a track cut from a mono recording fades in and out: 10 ms."""


@dataclass(frozen=True)
class Reading:
    """How to read a set. The defaults suit both public layouts."""

    system: str | None = None
    """Whose side the model learns: "left", "right" or a speaker's label; None: the left channel, or in a mono recording the
    speaker who talks most."""
    left: tuple[str, ...] = (SYSTEM_LABEL, "A")
    """Labels of the speaker in the left channel."""
    right: tuple[str, ...] = (USER_LABEL, "B")
    need_words: bool = True
    """Refuse a recording without word times."""
    max_overlap: float = MAX_OVERLAP
    """Seconds by which a speaker's word may begin before the last one ended."""

    def system_is_right(self, path: Path) -> bool:
        """Is the system in the right channel of a stereo recording? InputError for a speaker who is in neither."""
        if self.system in (None, "left", *self.left):
            return False
        if self.system in ("right", *self.right):
            return True
        raise InputError(f"{path}: no speaker {self.system!r}; this recording has left ({', '.join(self.left)}) and "
                         f"right ({', '.join(self.right)})")


@dataclass(frozen=True)
class Recording:
    """One dialogue: both tracks, both speakers' words, events. Times in seconds from the first sample."""

    name: str
    pcm: np.ndarray
    """float32 [2, S]: the system's track, the user's track."""
    system_words: tuple[Word, ...] = ()
    user_words: tuple[Word, ...] = ()
    events: tuple[dict[str, Any], ...] = ()
    labelled: bool = True
    """Were there word times at all? Without them no words means that nobody knows, not that nobody speaks."""

    @property
    def seconds(self) -> float:
        return self.pcm.shape[1] / SAMPLE_RATE


def load(item: Item, reading: Reading = Reading()) -> Recording:  # noqa: B008 - frozen
    """Reads one recording; InputError, naming the file and the mend, for every one that cannot be used."""
    if item.problem:
        raise InputError(item.problem)
    pcm = read_audio(item.audio)
    seconds = pcm.shape[1] / SAMPLE_RATE
    if pcm.shape[1] < FRAME_SAMPLES:
        raise InputError(f"{item.audio}: shorter than one frame of 80 ms; remove it")
    if item.duration is not None and abs(item.duration - seconds) > 0.1:
        raise InputError(f"{item.audio}: mismatched length: the manifest says {item.duration:.2f} s, the file has "
                         f"{seconds:.2f} s; write the manifest again")
    if item.labels is None and reading.need_words:
        raise InputError(f"{item.audio}: no word times beside it ({item.audio.stem}.json); make them with "
                         "python -m train.annotate")
    spoken = read_spoken(item.labels, reading.max_overlap) if item.labels else []
    _check_length(spoken, seconds, item)
    if pcm.shape[0] == 1:
        pcm, side_of = _split(pcm[0], item, reading)
    elif pcm.shape[0] == 2:
        if np.array_equal(pcm[0], pcm[1]):
            raise InputError(f"{item.audio}: both channels are the same: mono saved as stereo; save it as mono and add a "
                             "diarisation")
        pcm, side_of = _stereo(pcm, item, reading)
    else:
        raise InputError(f"{item.audio}: has {pcm.shape[0]} channels; give one with a diarisation, or two")
    words: dict[int, list[Word]] = {0: [], 1: []}
    for word in spoken:
        if word.speaker not in side_of:
            known = ", ".join(sorted(side_of))
            raise InputError(f"{item.labels}: unknown speaker {word.speaker!r} says {word.text!r} at {word.start:g} s; known: "
                             f"{known}; name the speakers with --left and --right")
        words[side_of[word.speaker]].append(Word(word.text, word.start, word.end))
    events = read_events(item.events) if item.events else []
    late = next((e for e in events if e["start"] > seconds + LATE_WORDS), None)
    if late:
        raise InputError(f"{item.events}: mismatched length: {late['kind']} at {late['start']:g} s, but the recording has "
                         f"{seconds:.2f} s; check which recording the file belongs to")
    ordered = [tuple(sorted(words[side], key=lambda w: w.start)) for side in (0, 1)]
    return Recording(item.name, np.ascontiguousarray(pcm), *ordered, tuple(events), item.labels is not None)


def _check_length(spoken: list[SpokenWord], seconds: float, item: Item) -> None:
    for word in spoken:
        if word.start > seconds or word.end > seconds + LATE_WORDS:
            raise InputError(f"{item.labels}: mismatched length: word {word.text!r} ends at {word.end:g} s, but the recording "
                             f"has {seconds:.2f} s; check which recording the file belongs to")


def _stereo(pcm: np.ndarray, item: Item, reading: Reading) -> tuple[np.ndarray, dict[str, int]]:
    right = reading.system_is_right(item.audio)
    side_of = {label: int(right) for label in reading.left} | {label: int(not right) for label in reading.right}
    return pcm[::-1] if right else pcm, side_of


def _split(pcm: np.ndarray, item: Item, reading: Reading) -> tuple[np.ndarray, dict[str, int]]:
    """Two tracks [2, S] of a mono recording, and the side of every label."""
    if item.segments is None:
        raise InputError(f"{item.audio}: is mono where stereo is needed; give two channels (left system, right user), or a "
                         f"diarisation in {item.audio.stem}.rttm or {item.audio.stem}.segments.json")
    segments = read_segments(item.segments)
    seconds = len(pcm) / SAMPLE_RATE
    if segments[-1].start > seconds:
        raise InputError(f"{item.segments}: mismatched length: a segment begins at {segments[-1].start:g} s, but the recording "
                         f"has {seconds:.2f} s; check which recording the file belongs to")
    speakers = {segment.speaker for segment in segments}
    system = reading.system or main_speaker(segments)
    if system not in speakers:
        raise InputError(f"{item.segments}: unknown speaker {system!r}; the diarisation has {', '.join(sorted(speakers))}")
    gain = _gate(segments, system, len(pcm))
    side_of = {SYSTEM_LABEL: 0, USER_LABEL: 1} | {speaker: int(speaker != system) for speaker in speakers}
    return np.stack([pcm * gain, pcm * (1 - gain)]), side_of


def main_speaker(segments: Sequence[Segment]) -> str:
    """The speaker who talks most; of equals the first by name."""
    talk: dict[str, float] = defaultdict(float)
    for segment in segments:
        talk[segment.speaker] += segment.end - segment.start
    return max(sorted(talk), key=lambda speaker: talk[speaker])


def _gate(segments: list[Segment], system: str, samples: int) -> np.ndarray:
    """float32 [S]: 1 where the system's speaker talks, 0 elsewhere, with straight edges of 10 ms."""
    mask = np.zeros(samples, np.float32)
    for segment in segments:
        if segment.speaker == system:
            mask[round(segment.start * SAMPLE_RATE) : round(segment.end * SAMPLE_RATE)] = 1
    total = np.concatenate([np.zeros(1), np.cumsum(np.pad(mask, (FADE // 2, FADE - FADE // 2), mode="edge"), dtype=np.float64)])
    return ((total[FADE:] - total[:-FADE]) / FADE).astype(np.float32)[:samples]


def derived_events(recording: Recording) -> tuple[dict[str, Any], ...]:
    """Turns, overlaps, backchannels and barge-ins of a recording without event labels, told from its sound by `duplex.turns`.

    Each carries ``"derived": true``: these are a detector's opinion on the 80 ms grid, not labels.
    """
    activity = [frames_of(speech_mask(track)) for track in recording.pcm]
    tracker, told = TurnTracker(), []
    for system, user in zip(*activity, strict=True):
        told += tracker.push(bool(system), bool(user))
    told += tracker.flush()
    found = [{"kind": f"{side}_turn", "start": start, "end": end} for side in ("system", "user")
             for start, end in speech_spans(told, side)]
    found += [event for event in map(_marked, told) if event]
    found = [{**e, "start": round(e["start"], 3), "end": round(e["end"], 3), "derived": True} for e in found]
    return tuple(sorted(found, key=lambda e: (e["start"], e["end"], e["kind"])))


def _marked(event: Event) -> dict[str, Any] | None:
    seconds = event.seconds or 0.0
    if event.kind is EventKind.OVERLAP_STOP:
        return {"kind": "overlap", "start": event.time - seconds, "end": event.time}
    if event.kind is EventKind.BACKCHANNEL:
        return {"kind": "user_backchannel", "start": event.time, "end": event.time + seconds}
    if event.kind is EventKind.BARGE_IN:
        return {"kind": "barge_in", "start": event.time, "end": event.time}
    if event.kind is EventKind.YIELDED:
        return {"kind": "yielded", "start": event.time - seconds, "end": event.time}
    return None


def pieces(recording: Recording, seconds: float) -> list[Recording]:
    """A recording cut into parts of at most ``seconds``, each at the longest common silence of the last third.

    Every part is a conversation of its own to the codec, as a live session is. Words and events go to the part in which they
    begin; the names get ``@`` and the part's first second.
    """
    if recording.seconds <= seconds:
        return [recording]
    quiet = ~(speech_mask(recording.pcm[0]) | speech_mask(recording.pcm[1]))
    words = [(w.start, w.end) for side in (recording.system_words, recording.user_words) for w in side]
    quiet &= ~span_mask(words, len(quiet))
    cuts, length = [0.0], recording.seconds
    while length - cuts[-1] > seconds:
        cuts.append(_quietest(quiet, cuts[-1] + seconds * 2 / 3, cuts[-1] + seconds))
    return [_part(recording, a, b) for a, b in zip(cuts, [*cuts[1:], length], strict=True)]


def _quietest(quiet: np.ndarray, low: float, high: float) -> float:
    """Seconds at the middle of the longest run of True between two times, on the frame grid; ``high`` where there is none."""
    frames = frames_of(quiet)
    first, last = int(low * SAMPLE_RATE / FRAME_SAMPLES), int(high * SAMPLE_RATE / FRAME_SAMPLES)
    best, run, cut = 0, 0, last
    for frame in range(first, min(last, len(frames))):
        run = run + 1 if frames[frame] else 0
        if run > best:
            best, cut = run, frame - run // 2
    return frames_to_samples(cut) / SAMPLE_RATE


def _part(recording: Recording, start: float, end: float) -> Recording:
    def moved(words: tuple[Word, ...]) -> tuple[Word, ...]:
        return tuple(Word(w.text, w.start - start, min(w.end, end) - start) for w in words if start <= w.start < end)

    events = tuple({**e, "start": e["start"] - start, "end": min(e["end"], end) - start} for e in recording.events
                   if start <= e["start"] < end)
    pcm = recording.pcm[:, round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    return Recording(f"{recording.name}@{start:.2f}", np.ascontiguousarray(pcm), moved(recording.system_words),
                     moved(recording.user_words), events, recording.labelled)
