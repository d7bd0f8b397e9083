"""A finished dialogue for people and for programs: transcript, events file, summary and the folder that holds them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duplex.audio import write_wav
from duplex.errors import InputError
from duplex.metrics.turntaking import turn_taking_statistics
from duplex.simulate import Dialogue
from duplex.text import Word
from duplex.turns import EventKind, TurnSummary, speech_spans
from duplex.units import FRAME_SECONDS
from infer.timeline import draw_timeline, printable

# A silence of this length within one side's words starts a new line of the transcript.
LINE_BREAK_SECONDS = 0.8


@dataclass(frozen=True)
class About:
    """Where a dialogue comes from: what the report says of it beyond its content."""

    model: str
    user: str
    """The user's file, or what else was the user."""
    settings: dict[str, object]
    """Seed, sampling and so on: what is needed to make the dialogue again."""
    script: tuple[dict[str, object], ...] = ()
    """Lines of a scripted user, with the exact times at which they were said."""
    delivery: dict[str, object] | None = None
    """How the sound arrived, where a network or devices lay between."""


@dataclass(frozen=True)
class Utterance:
    """Something that one side said in one go; `text` is empty when there was sound and nobody knows the words."""

    side: str
    start: float
    end: float
    text: str
    unheard: str = ""
    """What followed and did not reach the user, because the playback was cut."""


def utterances(dialogue: Dialogue) -> list[Utterance]:
    """What both sides said, in order of the starts."""
    found = []
    for side, words in (("system", dialogue.words), ("user", dialogue.user_words)):
        lines: list[list[Word]] = []
        for word in words:
            again = lines and side == "system" and _is_heard(word, dialogue) and not _is_heard(lines[-1][-1], dialogue)
            if lines and word.start - lines[-1][-1].end < LINE_BREAK_SECONDS and not again:
                lines[-1].append(word)
            else:
                lines.append([word])
        spoken = [_utterance(side, line, dialogue) for line in lines]
        found += spoken
        found += [Utterance(side, start, stop, "") for start, stop in speech_spans(dialogue.events, side)
                  if not any(start < line.end and line.start < stop for line in spoken)]
    return sorted(found, key=lambda utterance: utterance.start)


def _is_heard(word: Word, dialogue: Dialogue) -> bool:
    return dialogue.heard.heard(word.start, word.end)


def _utterance(side: str, line: Sequence[Word], dialogue: Dialogue) -> Utterance:
    """A line of words as it was heard. What was cut off says that it was."""
    heard = [side == "user" or _is_heard(word, dialogue) for word in line]
    texts = [" ".join(printable(word.text) for word, here in zip(line, heard, strict=True) if here is wanted)
             for wanted in (True, False)]
    end = max((word.end for word, here in zip(line, heard, strict=True) if here), default=line[-1].end)
    return Utterance(side, line[0].start, end, *texts)


def clock_time(seconds: float) -> str:
    """0:07.3 for 7.3 s."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths % 600 // 10:02d}.{tenths % 10}"


def transcript(dialogue: Dialogue, about: About) -> str:
    """The dialogue as Markdown: who said what and when, then how the turns went."""
    lines = ["# Conversation", "", f"{dialogue.seconds:.1f} s; model `{about.model}`; user: {about.user}.", "",
             "| from | to | who | says |", "|---:|---:|---|---|"]
    for said in utterances(dialogue):
        text = said.text or ("" if said.unheard else "*(speaks)*")
        text += f" ... *(not heard: {said.unheard})*" if said.unheard else ""
        text = text.strip().replace("|", "\\|")
        lines.append(f"| {clock_time(said.start)} | {clock_time(said.end)} | {said.side} | {text} |")
    lines += ["", "## Turn-taking", "", *(f"- {line}" for line in turn_lines(dialogue.summary)), ""]
    lines += _statistics(dialogue)
    shown = [event for event in dialogue.events if event.kind in _NOTEWORTHY]
    if shown:
        lines += ["| at | event | seconds |", "|---:|---|---:|"]
        for event in shown:
            seconds = "" if event.seconds is None else f"{event.seconds:.2f}"
            lines.append(f"| {clock_time(event.time)} | {event.kind.value.replace('_', ' ')} | {seconds} |")
        lines.append("")
    lines += ["Times are those of the session: the two sides as they lie beside each other in `conversation.wav`. "
              f"A live listener hears the system one frame ({FRAME_SECONDS * 1000:.0f} ms) later.", ""]
    return "\n".join(lines)


def _statistics(dialogue: Dialogue) -> list[str]:
    """The rates that papers give, as a table."""
    if not dialogue.seconds:
        return []
    found = turn_taking_statistics(speech_spans(dialogue.events, "system"), speech_spans(dialogue.events, "user"),
                                   dialogue.seconds)
    rows = [f"| {name} | {found[name]['per_minute']:.1f} | {found[name]['seconds_per_minute']:.1f} |"
            for name in ("ipu", "pause", "gap", "overlap")]
    return ["| | per minute | seconds per minute |", "|---|---:|---:|", *rows, ""]


_NOTEWORTHY = {EventKind.BACKCHANNEL, EventKind.BARGE_IN, EventKind.TRUNCATED, EventKind.YIELDED,
               EventKind.FALSE_YIELD, EventKind.RESUMED}


def turn_lines(summary: TurnSummary) -> list[str]:
    """The statistics in words, one fact per line."""
    latencies = ", ".join(f"{value:.2f} s" for value in summary.response_latencies)
    median = summary.median_response_latency
    yields = ", ".join(f"{value:.2f} s" for value in summary.times_to_yield)
    lines = [f"user spoke {summary.user_speech_seconds:.1f} s, system {summary.system_speech_seconds:.1f} s, "
             f"both at once {summary.overlap_seconds:.1f} s",
             f"response latency {latencies} (median {median:.2f} s)" if median is not None else
             "response latency: the system never answered after a silence"]
    if summary.starts_over_user:
        times = "once" if summary.starts_over_user == 1 else f"{summary.starts_over_user} times"
        lines.append(f"the system started {times} while the user was speaking")
    if summary.barge_ins:
        to = f" ({len(summary.times_to_yield)} yielded to, after {yields})" if yields else " (none yielded to)"
        false = f"; {summary.false_yields} of them no more than a backchannel" if summary.false_yields else ""
        lines.append(f"interruptions by the user: {summary.barge_ins}{to}{false}")
    else:
        lines.append("interruptions by the user: none")
    lines.append(f"backchannels by the user: {summary.backchannels}")
    return lines


def compute_line(step_seconds: Sequence[float]) -> str:
    """Time per frame and real-time factor (compute over audio), in words."""
    p50, p95, p99 = (1000 * np.percentile(step_seconds, share) for share in (50, 95, 99))
    factor = float(np.mean(step_seconds)) / FRAME_SECONDS
    return (f"compute per {1000 * FRAME_SECONDS:.0f} ms frame: p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms; "
            f"real-time factor {factor:.2f}")


def human_summary(dialogue: Dialogue) -> str:
    """What the commands print at the end."""
    lines = [f"{said.side:>7}  {clock_time(said.start)} - {clock_time(said.end)}  {_spoken(said)}"
             for said in utterances(dialogue)]
    lines += [""] + turn_lines(dialogue.summary)
    if dialogue.step_seconds:
        lines.append(compute_line(dialogue.step_seconds))
    return "\n".join(lines)


def _spoken(said: Utterance) -> str:
    if said.unheard:
        return f"{said.text} ... (not heard: {said.unheard})".strip()
    return said.text or "(speaks)"


def event_lines(dialogue: Dialogue, about: About) -> Iterable[str]:
    """`events.jsonl`: a line about the dialogue, then words and events in order of time, then the statistics."""
    yield json.dumps({"kind": "dialogue", "seconds": round(dialogue.seconds, 3), "model": about.model,
                      "user": about.user, **about.settings})
    rows = [event.to_dict() for event in dialogue.events]
    for side, words in (("system", dialogue.words), ("user", dialogue.user_words)):
        rows += [{"kind": f"{side}_word", "time": round(word.start, 3), "end": round(word.end, 3), "word": word.text,
                  **({} if side == "user" or _is_heard(word, dialogue) else {"heard": False})}
                 for word in words]
    rows += [{"kind": "script", **line} for line in about.script]
    for row in sorted(rows, key=lambda row: row["time"]):
        yield json.dumps(row, ensure_ascii=False)
    if about.delivery is not None:
        yield json.dumps({"kind": "delivery", **about.delivery})
    if dialogue.seconds:
        yield json.dumps({"kind": "turn_taking", **_rounded(turn_taking_statistics(
            speech_spans(dialogue.events, "system"), speech_spans(dialogue.events, "user"), dialogue.seconds))})
    yield json.dumps({"kind": "summary", **dialogue.summary.to_dict()})


def _rounded(value):
    """Numbers of a nested structure to a tenth of a millisecond."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def check_folder(folder: str | Path) -> Path:
    """`folder` as a path that a report can be written to; InputError before any work is done for nothing."""
    folder = Path(folder)
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise InputError(f"{folder}: {existing} is a file; name another folder with --out")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: no permission to write in {existing}; name another folder with --out")
    return folder


def write_report(dialogue: Dialogue, about: About, folder: str | Path) -> list[Path]:
    """Writes conversation.wav, transcript.md, events.jsonl and timeline.png into `folder`; gives their paths.

    They are made in a temporary folder beside it and moved when all four are complete. Other files in `folder` stay.
    """
    folder = check_folder(folder)
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        write_wav(temporary / "conversation.wav", dialogue.stereo)
        (temporary / "transcript.md").write_text(transcript(dialogue, about), encoding="utf-8")
        (temporary / "events.jsonl").write_text(
            "".join(f"{line}\n" for line in event_lines(dialogue, about)), encoding="utf-8")
        draw_timeline(dialogue, temporary / "timeline.png", title=f"{about.user} with model {about.model}")
        names = sorted(path.name for path in temporary.iterdir())
        folder.mkdir(exist_ok=True)
        for name in names:
            (temporary / name).replace(folder / name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); name another with --out") from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                shutil.rmtree(temporary)
    return [folder / name for name in names]
