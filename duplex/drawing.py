"""Parts that the pictures of dialogues share: texts that never cover each other, and the envelope of a waveform."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MultipleLocator

from duplex.units import seconds_to_samples

COLUMNS = 1_600
"""Points of an envelope in one row of a picture."""


class Shelf:
    """Gives texts a place on one of a few levels, so that none covers another or leaves the row. Times in seconds."""

    def __init__(self, axes: Axes, levels: int, size: float):
        self.start, self.stop = axes.get_xlim()
        self.free = [-math.inf] * levels
        self.font = FontProperties(size=size)
        self.renderer = axes.figure.canvas.get_renderer()
        self.seconds_per_pixel = (self.stop - self.start) / axes.get_window_extent().width

    def place(self, text: str, time: float, until: float = -math.inf) -> tuple[float, int] | None:
        """Left edge and level for a text (and a bar until ``until``) that belongs to ``time``; None when all are taken."""
        pixels = self.renderer.get_text_width_height_descent(text, self.font, ismath=False)[0] if text else 0
        width = pixels * self.seconds_per_pixel
        left = max(self.start, min(time, self.stop - width))  # a text at the right edge moves inside
        level = next((n for n, free in enumerate(self.free) if left >= free), None)
        if level is None:
            return None
        self.free[level] = max(left + width + 6 * self.seconds_per_pixel, until)
        return left, level


class Envelope:
    """The waveform of one speaker, float32 [S] at 24 kHz, drawn as high as ``half`` around the middle of its lane.

    Scaled to the loudest speech of the whole dialogue, and never so far that faint noise looks like speech.
    """

    def __init__(self, pcm: np.ndarray, half: float):
        self.pcm, self.half = pcm, half
        self.scale = half / max(0.05, float(np.quantile(np.abs(pcm), 0.9995)) if len(pcm) else 0.0)

    def draw(self, axes: Axes, start: float, stop: float, middle: float, colour: str) -> None:
        """The stretch from ``start`` to ``stop`` in seconds."""
        piece = self.pcm[seconds_to_samples(start) : seconds_to_samples(stop)]
        columns = min(COLUMNS, len(piece))
        if not columns:
            return
        cuts = np.linspace(0, len(piece), columns, endpoint=False).astype(int)
        top = np.clip(np.maximum.reduceat(piece, cuts) * self.scale, -self.half, self.half)
        bottom = np.clip(np.minimum.reduceat(piece, cuts) * self.scale, -self.half, self.half)
        axes.fill_between(start + cuts / seconds_to_samples(1.0), middle + bottom, middle + top, color=colour, lw=0.4, zorder=3)


def prepare_row(axes: Axes, start: float, length: float, half: float, most_ticks: int) -> None:
    """A row of a picture from ``start`` seconds on, ``half`` high on either side of its middle: no frame but the time axis."""
    axes.set_xlim(start, start + length)
    axes.set_ylim(-half, half)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(time_ticks(length, most_ticks))
    axes.tick_params(axis="x", labelsize=8, length=3, colors="#444444")
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#BBBBBB")


def time_ticks(length: float, most: int) -> MultipleLocator:
    """Ticks at whole seconds, about ``most`` of them at the utmost."""
    return MultipleLocator(next((step for step in (1, 2, 5, 10, 30, 60) if length / step <= most), 120))
