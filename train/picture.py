"""A picture of a training dialogue: two waveforms with their words, the events between them, the codes below.

Time runs to the right and wraps into rows as text does. Labels are measured before they are placed, so that none covers
another; what finds no place is counted in a note.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from duplex.drawing import Envelope, Shelf, prepare_row, time_ticks
from duplex.text import Word
from duplex.units import FRAME_SECONDS

ROW_SECONDS = 12.0
MAX_ROWS = 10
WIDTH, HEAD, FOOT, SOUND_HEIGHT, CODE_ROW = 16.0, 1.15, 0.45, 2.5, 0.075  # inches
LEFT, RIGHT = 0.95, 0.3  # inches
MOST_TICKS = 24
SIDES = ("system", "user")
# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
LANE_COLOURS = {"system": "#0072B2", "user": "#D55E00"}
EVENT_COLOURS = ("#CC79A7", "#009E73", "#E69F00", "#56B4E9", "#7B5EA7", "#B8A600", "#444444", "#A65628", "#1B9E9E", "#E7298A")
LANES, LANE_HALF = {"system": 0.53, "user": -0.53}, 0.26
WORD_LEVELS = (0.89, 1.04, 1.19)
STRIP_LEVELS = (0.17, 0.0, -0.17)
ROW_HALF = 1.26
GOLDEN = 0.61803398875


@dataclass(frozen=True)
class Scene:
    """What is drawn. Times in seconds."""

    name: str
    seconds: float
    pcm: np.ndarray | None
    """float32 [2, S], system and user; None when there is no sound."""
    words: tuple[Sequence[Word], Sequence[Word]]
    events: Sequence[dict]
    """Each with kind, start, end."""
    codes: np.ndarray | None = None
    """int [2K, T]: the system's codebooks, then the user's."""
    note: str = ""


def draw(scene: Scene, path: Path) -> None:
    """Write the picture as a png file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        picture(scene).savefig(path, format="png")


LASTING = 0.8
"""Share of the dialogue from which an event (noise, reverberation) is named in the head and not drawn as a bar."""


def picture(scene: Scene) -> Figure:
    """The picture of a scene."""
    seconds = max(scene.seconds, 1.0)
    lasting = [e for e in scene.events if e["end"] - e["start"] >= LASTING * seconds and not e["kind"].endswith("_turn")]
    if lasting:
        throughout = "throughout: " + ", ".join(sorted({e["kind"].replace("_", " ") for e in lasting}))
        shown = [e for e in scene.events if e not in lasting]
        scene = replace(scene, events=shown, note=", ".join(filter(None, [scene.note, throughout])))
    rows = min(MAX_ROWS, math.ceil(seconds / ROW_SECONDS - 1e-6))
    row_seconds = math.ceil(seconds / rows * 100 - 1e-6) / 100
    code_height = 0.0 if scene.codes is None else max(0.5, CODE_ROW * len(scene.codes))
    row_height = SOUND_HEIGHT + code_height + 0.42
    height = HEAD + rows * row_height + FOOT
    figure = Figure(figsize=(WIDTH, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    kinds = sorted({e["kind"] for e in scene.events} - {"system_turn", "user_turn"})
    colours = {kind: EVENT_COLOURS[n % len(EVENT_COLOURS)] for n, kind in enumerate(kinds)}
    envelopes = [] if scene.pcm is None else [Envelope(pcm, LANE_HALF) for pcm in scene.pcm]
    left_out = 0
    for row in range(rows):
        top = height - HEAD - row * row_height
        width = 1 - (LEFT + RIGHT) / WIDTH
        sound = figure.add_axes((LEFT / WIDTH, (top - SOUND_HEIGHT) / height, width, SOUND_HEIGHT / height))
        left_out += _draw_sound(sound, scene, envelopes, colours, row * row_seconds, row_seconds)
        if scene.codes is not None:
            bottom = top - SOUND_HEIGHT - code_height
            axes = figure.add_axes((LEFT / WIDTH, bottom / height, width, code_height / height))
            _draw_codes(axes, scene.codes, row * row_seconds, row_seconds)
            sound.tick_params(axis="x", length=0, labelbottom=False)
        else:
            axes = sound
        if row == rows - 1:
            axes.set_xlabel("seconds", fontsize=9, color="#444444")
    _head(figure, scene, colours, height)
    if left_out:
        figure.text(1 - RIGHT / WIDTH, 0.1 / height, f"{left_out} labels left out for want of space", ha="right", fontsize=8,
                    color="#666666")
    return figure


def _head(figure: Figure, scene: Scene, colours: dict[str, str], height: float) -> None:
    left = LEFT / WIDTH
    figure.text(left, 1 - 0.36 / height, scene.name, fontsize=14, weight="bold", parse_math=False)
    facts = [f"{scene.seconds:.1f} s", f"{len(scene.words[0])} words of the system", f"{len(scene.words[1])} of the user",
             f"{len(scene.events)} events"]
    if scene.codes is not None:
        facts.append(f"{len(scene.codes) // 2} codebooks a voice, {scene.codes.shape[1]} frames")
    figure.text(left, 1 - 0.62 / height, "   \u00b7   ".join([*facts, *filter(None, [scene.note])]), fontsize=10, color="#444444")
    handles = [Patch(color=LANE_COLOURS[side], alpha=0.25, label=f"{side}'s turn") for side in SIDES
               if any(e["kind"] == f"{side}_turn" for e in scene.events)]
    handles += [Patch(color=colour, label=kind.replace("_", " ")) for kind, colour in colours.items()]
    if handles:
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(left - 0.003, 1 - 0.68 / height), ncol=8, frameon=False,
                      fontsize=9, handlelength=1.2, columnspacing=1.4, borderpad=0.1)


def _draw_sound(axes: Axes, scene: Scene, envelopes: Sequence[Envelope], colours: dict[str, str], start: float,
                length: float) -> int:
    stop = start + length
    prepare_row(axes, start, length, ROW_HALF, MOST_TICKS)
    left_out = 0
    for number, side in enumerate(SIDES):
        middle = LANES[side]
        for event in scene.events:
            if event["kind"] == f"{side}_turn" and event["start"] < stop and event["end"] > start:
                span = max(event["start"], start), min(event["end"], stop)
                axes.fill_between(span, middle - LANE_HALF, middle + LANE_HALF, color=LANE_COLOURS[side], alpha=0.14, lw=0)
        if not envelopes:
            axes.hlines(middle, start, min(stop, scene.seconds), color=LANE_COLOURS[side], lw=0.8)
        else:
            envelopes[number].draw(axes, start, stop, middle, LANE_COLOURS[side])
        axes.text(-0.012, middle, side, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=10, weight="bold",
                  color=LANE_COLOURS[side])
        left_out += _draw_words(axes, side, [w for w in scene.words[number] if start <= w.start < stop])
    return left_out + _draw_events(axes, scene.events, colours, start, stop)


def _draw_words(axes: Axes, side: str, words: Sequence[Word]) -> int:
    sign = 1 if side == "system" else -1
    edge = LANES[side] + sign * (LANE_HALF + 0.01)
    shelf, left_out = Shelf(axes, len(WORD_LEVELS), 8.5), 0
    for word in words:
        text = "".join(c if c.isprintable() else "\ufffd" for c in word.text)
        place = shelf.place(text, word.start)
        if place is None:
            left_out += 1
            continue
        axes.text(place[0], sign * WORD_LEVELS[place[1]], text, fontsize=8.5, va="center", color="#222222", parse_math=False)
        axes.plot([word.start, max(word.end, word.start + 0.02)], [edge, edge], color=LANE_COLOURS[side], lw=2.0, zorder=4,
                  solid_capstyle="butt")
        axes.plot([word.start] * 2, [edge - 0.012, edge + 0.03 * sign], color=LANE_COLOURS[side], lw=1.0, zorder=4)
    return left_out


def _draw_events(axes: Axes, events: Sequence[dict], colours: dict[str, str], start: float, stop: float) -> int:
    shelf, left_out = Shelf(axes, len(STRIP_LEVELS), 8), 0
    for event in sorted(events, key=lambda e: e["start"]):
        if event["kind"] not in colours or event["start"] >= stop or event["end"] < start:
            continue
        first, last = max(event["start"], start), min(max(event["end"], event["start"] + 0.06), stop)
        label = event["kind"].replace("_", " ") if event["start"] >= start else ""
        place = shelf.place(label, first, last)
        if place is None:
            left_out += 1
            continue
        y = STRIP_LEVELS[place[1]]
        axes.fill_between([first, last], y - 0.07, y + 0.07, color=colours[event["kind"]], alpha=0.55, lw=0, zorder=2)
        axes.vlines(first, y - 0.07, y + 0.07, color=colours[event["kind"]], lw=1.6, zorder=3)
        axes.text(place[0] + 0.03, y, label, fontsize=8, va="center", color="#222222", zorder=5)
    return left_out


def _draw_codes(axes: Axes, codes: np.ndarray, start: float, length: float) -> None:
    first, last = round(start / FRAME_SECONDS), round((start + length) / FRAME_SECONDS)
    part = codes[:, first:last].astype(float)
    books = len(codes) // 2
    # Neighbouring numbers mean unlike sounds: the golden ratio gives them unlike colours, and equal ones stay equal.
    shown = np.insert((part * GOLDEN) % 1, books, np.nan, axis=0)
    if part.size:
        axes.imshow(shown, aspect="auto", interpolation="nearest", cmap=_CODE_COLOURS, vmin=0, vmax=1,
                    extent=(start, start + part.shape[1] * FRAME_SECONDS, len(shown), 0))
    axes.set_xlim(start, start + length)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(time_ticks(length, MOST_TICKS))
    axes.tick_params(axis="x", labelsize=8, length=3, colors="#444444")
    for spine in axes.spines.values():
        spine.set_visible(False)
    for number, side in enumerate(SIDES):
        axes.text(-0.012, number * (books + 1) + books / 2, "codes", transform=axes.get_yaxis_transform(), ha="right",
                  va="center", fontsize=8, color=LANE_COLOURS[side])


def _soft_colours() -> ListedColormap:
    hue = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    rgb = np.stack([0.74 + 0.22 * np.cos(hue + shift) for shift in (0.0, 2.1, 4.2)], 1)
    return ListedColormap(rgb)  # what is no number stays transparent: white


_CODE_COLOURS = _soft_colours()
