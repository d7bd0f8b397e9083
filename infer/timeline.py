"""A picture of a dialogue: two lanes of sound with the words above and below, and what happened between them.

Time runs to the right and wraps into rows as text does. Every label is measured before it is placed, so that none
covers another; a word that finds no place in a very dense row is left out and counted in a note.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from duplex.drawing import Envelope, Shelf, prepare_row
from duplex.simulate import Dialogue
from duplex.text import Word
from duplex.turns import Event, EventKind, speech_spans

ROW_SECONDS = 16.0
"""A row shows at most this much ..."""
MAX_ROWS = 12
"""... unless that makes more rows than this; then the rows hold more."""
WIDTH, ROW_HEIGHT, HEAD, FOOT = 16.0, 2.6, 1.0, 0.5  # inches
LEFT, RIGHT = 0.85, 0.35  # inches
MOST_TICKS = 20

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
COLOURS = {"system": "#0072B2", "user": "#D55E00", "overlap": "#F0E442", "response": "#56B4E9", "barge-in": "#CC79A7",
           "false yield": "#444444", "backchannel": "#009E73"}
LANES = {"system": +0.50, "user": -0.50}  # heights of the middles of the lanes
LANE_HALF = 0.21
WORD_LEVELS = (0.82, 0.98, 1.14)
ROW_HALF = 1.24  # the row spans minus this to this
LABEL_LEVELS = (0.13, -0.13)


def printable(text: str) -> str:
    """`text` with control characters replaced: a model may write anything, and a terminal obeys some of it."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


@dataclass(frozen=True)
class Mark:
    """A coloured span of the strip between the lanes; times in seconds."""

    kind: str
    start: float
    stop: float
    label: str


def marks_of(events: Sequence[Event]) -> list[Mark]:
    """What the strip shows: answers with their latency, backchannels, and barge-ins with what came of them."""
    marks = []
    for number, event in enumerate(events):
        if event.kind is EventKind.SYSTEM_START and event.seconds is not None:
            marks.append(Mark("response", event.time - event.seconds, event.time, f"{event.seconds:.2f} s"))
        elif event.kind is EventKind.BACKCHANNEL:
            marks.append(Mark("backchannel", event.time, event.time + (event.seconds or 0), "backchannel"))
        elif event.kind is EventKind.BARGE_IN:
            marks.append(_barge_in(event, events[number + 1 :]))
    return marks


def _barge_in(start: Event, later: Sequence[Event]) -> Mark:
    upcoming = [event for event in later if event.kind in (EventKind.BARGE_IN, EventKind.YIELDED, EventKind.FALSE_YIELD)]
    end = next((n for n, event in enumerate(upcoming) if event.kind is EventKind.BARGE_IN), len(upcoming))
    outcome = {event.kind: event for event in upcoming[:end]}
    yielded = outcome.get(EventKind.YIELDED)
    if yielded is None:
        stop = next((event.time for event in later if event.kind is EventKind.OVERLAP_STOP), start.time + 0.5)
        return Mark("barge-in", start.time, stop, "barge-in, not yielded to")
    kind = "false yield" if EventKind.FALSE_YIELD in outcome else "barge-in"
    return Mark(kind, start.time, yielded.time, f"{kind}, silent after {yielded.seconds:.2f} s")


def draw_timeline(dialogue: Dialogue, path: str | Path, title: str) -> None:
    """Writes the picture as a png file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box in the picture says it as well
        timeline(dialogue, title).savefig(path, format="png")


def timeline(dialogue: Dialogue, title: str) -> Figure:
    """The picture of `dialogue`."""
    seconds = max(dialogue.seconds, 1.0)
    rows = min(MAX_ROWS, math.ceil(seconds / ROW_SECONDS))
    row_seconds = seconds if rows == 1 else math.ceil(seconds / rows)
    rows = math.ceil(seconds / row_seconds)
    height = HEAD + rows * ROW_HEIGHT + FOOT
    figure = Figure(figsize=(WIDTH, height), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    envelopes = {"system": Envelope(dialogue.system_pcm, LANE_HALF), "user": Envelope(dialogue.user_pcm, LANE_HALF)}
    left_out = 0
    for row in range(rows):
        bottom = height - HEAD - (row + 1) * ROW_HEIGHT
        axes = figure.add_axes((LEFT / WIDTH, (bottom + 0.18) / height, 1 - (LEFT + RIGHT) / WIDTH,
                                (ROW_HEIGHT - 0.42) / height))
        left_out += _draw_row(axes, dialogue, envelopes, row * row_seconds, row_seconds)
        if row == rows - 1:
            axes.set_xlabel("seconds", fontsize=9)
    _head(figure, dialogue, title, height)
    if left_out:
        figure.text(1 - RIGHT / WIDTH, 0.12 / height, f"{_count(left_out, 'word')} left out for want of space", ha="right",
                    fontsize=8, color="#666666")
    return figure


def _head(figure: Figure, dialogue: Dialogue, title: str, height: float) -> None:
    left = LEFT / WIDTH
    figure.text(left, 1 - 0.38 / height, title, fontsize=14, weight="bold", parse_math=False)
    summary = dialogue.summary
    median = summary.median_response_latency
    facts = [f"{dialogue.seconds:.1f} s", "no answer after a silence" if median is None else
             f"median response latency {median:.2f} s", _count(summary.barge_ins, "barge-in"),
             _count(summary.backchannels, "backchannel"), f"{summary.overlap_seconds:.1f} s both at once"]
    figure.text(left, 1 - 0.66 / height, "   ·   ".join(facts), fontsize=10, color="#444444")
    shown = {"system", "user", *(mark.kind for mark in marks_of(dialogue.events))}
    if summary.overlap_seconds:
        shown.add("overlap")
    names = {"system": "system speaks", "user": "user speaks", "overlap": "both speak", "response": "response latency",
             "barge-in": "barge-in until the system is silent", "false yield": "yield to a backchannel"}
    handles = [Patch(color=colour, alpha=0.45 if name == "overlap" else 0.9, label=names.get(name, name))
               for name, colour in COLOURS.items() if name in shown]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(left - 0.003, 1 - 0.74 / height), ncol=len(handles),
                  frameon=False, fontsize=9, handlelength=1.2, columnspacing=1.6, borderpad=0.1)


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _draw_row(axes: Axes, dialogue: Dialogue, envelopes: dict[str, Envelope], start: float, length: float) -> int:
    """One row of the picture; gives the number of words that found no place."""
    stop = start + length
    prepare_row(axes, start, length, ROW_HALF, MOST_TICKS)
    overlaps = [(event.time - (event.seconds or 0), event.time) for event in dialogue.events
                if event.kind is EventKind.OVERLAP_STOP]
    for first, last in _within(overlaps, start, stop):
        axes.axvspan(first, last, color=COLOURS["overlap"], alpha=0.3, lw=0, zorder=0)
    left_out = 0
    for side, words in (("system", dialogue.words), ("user", dialogue.user_words)):
        _draw_lane(axes, side, envelopes[side], speech_spans(dialogue.events, side), start, stop)
        left_out += _draw_words(axes, side, [word for word in words if start <= word.start < stop])
    _draw_marks(axes, marks_of(dialogue.events), start, stop)
    return left_out


def _within(spans: Sequence[tuple[float, float]], start: float, stop: float) -> list[tuple[float, float]]:
    return [(max(a, start), min(b, stop)) for a, b in spans if a < stop and b > start]


def _draw_lane(axes: Axes, side: str, envelope: Envelope, spans: Sequence[tuple[float, float]], start: float,
               stop: float) -> None:
    middle, colour = LANES[side], COLOURS[side]
    for first, last in _within(spans, start, stop):
        axes.fill_between([first, last], middle - LANE_HALF, middle + LANE_HALF, color=colour, alpha=0.13, lw=0, zorder=1)
    envelope.draw(axes, start, stop, middle, colour)
    axes.text(-0.012, middle, side, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=10,
              weight="bold", color=colour)


def _draw_words(axes: Axes, side: str, words: Sequence[Word]) -> int:
    """Words beside their lane, each at its start, on the first level that is free there."""
    sign = 1 if side == "system" else -1
    edge = LANES[side] + sign * (LANE_HALF + 0.02)
    shelf = Shelf(axes, len(WORD_LEVELS), size=8)
    left_out, ticks = 0, []
    for word in words:
        text = printable(word.text)
        place = shelf.place(text, word.start)
        if place is None:
            left_out += 1
            continue
        axes.text(place[0], sign * WORD_LEVELS[place[1]], text, fontsize=8, va="center", color="#222222", parse_math=False)
        ticks.append(word.start)
    axes.vlines(ticks, edge, edge + sign * 0.03, color=COLOURS[side], lw=1.0, zorder=4)
    return left_out


def _draw_marks(axes: Axes, marks: Sequence[Mark], start: float, stop: float) -> None:
    shelf = Shelf(axes, len(LABEL_LEVELS), size=8)
    for mark in sorted(marks, key=lambda mark: mark.start):
        if not (mark.start < stop and mark.stop > start):
            continue
        first, last = max(mark.start, start), min(mark.stop, stop)
        axes.fill_between([first, last], -0.05, 0.05, color=COLOURS[mark.kind], lw=0, zorder=3)
        # Labelled in the row where it begins; where there is no place the colour still tells.
        place = shelf.place(mark.label, first) if mark.start >= start else None
        if place is not None:
            axes.text(place[0], LABEL_LEVELS[place[1]], mark.label, fontsize=8, va="center", color="#222222")
