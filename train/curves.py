"""Training curves of runs as one picture.

    python -m train.curves RUN [RUN ...] --out curves.png

A run is a folder of `train.fit` (all parts of a stopped and resumed run together) or of `train.codec`. What was trained on is a
thin line, smoothed; what was held out has dots. All in nats a token, the codec's spectral loss in its own unit.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from duplex.errors import InputError
from train import cli
from train.files import replace_file

SMOOTH = 15  # points of a moving mean
FIT_ROWS = {"text_word": "text: word pieces", "text_pad": "text: PAD", "text_epad": "text: EPAD", "audio_0": "semantic codebook",
            "audio_1": "first acoustic codebook", "audio_7": "last acoustic codebook"}
CODEC_ROWS = {"mel": "spectral loss", "phones": "phone labels, nats", "heard": "words heard by the model, nats",
              "distill": "teacher's features, 1 - cosine"}
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
Curves = dict[str, list[tuple[int, float]]]


def read_run(run: Path) -> Curves:
    """Name -> (step, value) in order of steps; "val/…" is held out. Where a resumed run did steps again, its later values."""
    parts = sorted((run / "logs").glob("metrics*.csv"), key=lambda path: path.stat().st_mtime)
    found: dict[str, dict[int, float]] = defaultdict(dict)
    try:
        for part in parts:
            with open(part, newline="") as file:
                for row in csv.DictReader(file):
                    for name, value in row.items():
                        if "/" in name and value:
                            found[name][int(row["step"])] = float(value)
        if not parts:
            for line in (run / "log.jsonl").read_text().splitlines():
                entry = json.loads(line)
                for name in CODEC_ROWS:
                    if name in entry:
                        found[name][entry["step"]] = float(entry[name])
    except FileNotFoundError:
        raise InputError(f"{run}: no curves here; name the folder of a run of train.fit or train.codec") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run}: its log cannot be read ({error}); start the run again to write a new one") from None
    return {name: sorted(points.items()) for name, points in found.items()}


def smoothed(points: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps [N] and the mean of each value with its neighbours [N], fewer of them at the ends."""
    steps, values = np.array(points, float).T
    width = min(SMOOTH, len(values))
    weights = np.convolve(np.ones(len(values)), np.ones(width), "same")
    return steps, np.convolve(values, np.ones(width), "same") / weights


def draw(runs: list[Path]) -> Figure:
    """One panel a run."""
    figure = Figure(figsize=(6.4 * len(runs), 4.4), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    for axes, run in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        _panel(axes, read_run(run), run.name)
    return figure


def _panel(axes: Axes, curves: Curves, title: str) -> None:
    names = FIT_ROWS if any("/" in name for name in curves) else CODEC_ROWS
    shown = [name for name in names if curves.get(name) or curves.get(f"train/{name}")]
    for colour, name in zip(COLOURS, shown, strict=False):
        axes.plot(*smoothed(curves.get(name) or curves[f"train/{name}"]), color=colour, lw=1.2, label=names[name])
        if held := curves.get(f"val/{name}"):
            axes.plot(*zip(*held, strict=True), color=colour, lw=0.8, ls=":", marker="o", ms=3.5)
    axes.set_title(title + (" (dots: held-out speakers and wordings)" if names is FIT_ROWS else ""), fontsize=10, loc="left")
    axes.set_xlabel("optimiser steps", fontsize=9)
    axes.set_ylabel("nats a token" if names is FIT_ROWS else "loss", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.grid(color="#E5E5E5", lw=0.6)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("curves", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Draws and writes."""
    figure = draw(args.runs)
    replace_file(args.out, lambda part: figure.savefig(part, format="png"))


if __name__ == "__main__":
    raise SystemExit(main())
