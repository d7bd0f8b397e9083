"""Pictures of results as PNG bytes, for the report."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (the backend must be chosen before)

from benchmarks import errors  # noqa: E402

COLOURS = ("#2b6cb0", "#a0aec0", "#cbd5e0", "#ed8936", "#48bb78")
KIND_COLOURS = ("#48bb78", "#cbd5e0", "#c53030", "#ed8936", "#ecc94b", "#9ae6b4", "#b2f5ea", "#4a5568")


def of(result: dict) -> list[tuple[str, bytes]]:
    """(caption, PNG) of what can be drawn of a result."""
    makers: dict[str, Sequence[tuple[str, Callable[[dict], bytes | None]]]] = {
        "card": (("Shares: model and controls, with the target as a line", shares), ("Response times to questions", responses),
                 ("Right answers by scenario", scenarios), ("What becomes of answers", kinds)),
        "dialogue": (("Self-dialogue over temperatures", selftalk),), "codec": (("Use of the codebooks", books),),
        "latency": (("Percentiles of one frame", stages), ("Sessions side by side against the frame of 80 ms", sessions),
                    ("A long call, minute by minute", call))}
    found = [(caption, draw(result)) for caption, draw in makers.get(result["benchmark"], ())]
    return [(caption, png) for caption, png in found if png]


def shares(result: dict) -> bytes | None:
    """Bars of every share of a card."""
    rows = [row for row in result["rows"] if row["unit"] == "%" and row["target"] is not None
            and row["systems"]["model"]["value"] is not None]
    if not rows:
        return None
    figure, axes = pyplot.subplots(figsize=(6.5, 0.5 * len(rows) + 1))
    for number, row in enumerate(rows):
        for offset, (name, estimate) in enumerate(row["systems"].items()):
            if estimate["value"] is not None:
                axes.barh(number + 0.15 * (offset - 2), 100 * estimate["value"], 0.14, color=COLOURS[offset % len(COLOURS)],
                          label=name if number == 0 else None)
        mine = row["systems"]["model"]
        if mine["low"] is not None and mine["high"] is not None:
            axes.plot([100 * mine["low"], 100 * mine["high"]], [number - 0.3] * 2, color="black", linewidth=1)
        axes.plot([100 * row["target"]] * 2, [number - 0.42, number + 0.42], color="#c53030")
    axes.set_yticks(range(len(rows)), [row["what"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("per cent")
    axes.legend(fontsize=7, ncols=5, loc="lower center", bbox_to_anchor=(0.2, 1.0))
    return _png(figure)


def responses(result: dict) -> bytes | None:
    """How long the model takes to answer."""
    times = [item["response_s"] for item in result.get("details", {}).get("turn", ()) if item.get("response_s") is not None]
    if not times:
        return None
    figure, axes = pyplot.subplots(figsize=(6, 2.5))
    axes.hist(times, bins=[0.08 * n for n in range(40)], color=COLOURS[0])
    axes.set_xlabel("seconds from the end of the question to the first sound")
    axes.set_ylabel("questions")
    return _png(figure)


def scenarios(result: dict) -> bytes | None:
    """Right answers by scenario, the best above."""
    found = sorted(result.get("scenarios", {}).items(), key=lambda pair: pair[1]["value"])
    if not found:
        return None
    figure, axes = pyplot.subplots(figsize=(6, 0.22 * len(found) + 0.8))
    axes.barh([name for name, _ in found], [100 * estimate["value"] for _, estimate in found], color=COLOURS[0])
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlim(0, 100)
    axes.set_xlabel("per cent right")
    return _png(figure)


def selftalk(result: dict) -> bytes | None:
    """Seconds a minute of IPU, pause, gap and overlap."""
    rows = [row for row in result.get("selftalk") or [] if "temperature" in row]
    if not rows:
        return None
    figure, axes = pyplot.subplots(figsize=(6, 2.8))
    for number, name in enumerate(("ipu", "pause", "gap", "overlap")):
        axes.plot([row["temperature"] for row in rows], [row[name]["seconds_per_minute"] for row in rows], marker="o",
                  color=("#2b6cb0", "#a0aec0", "#ed8936", "#48bb78")[number], label=name)
    axes.set_xlabel("text temperature")
    axes.set_ylabel("seconds a minute")
    axes.legend(fontsize=8)
    return _png(figure)


def books(result: dict) -> bytes | None:
    """Entropy of each codebook against what it could hold."""
    figure, axes = pyplot.subplots(figsize=(6, 2.5))
    for number, (voice, scores) in enumerate(result["voices"].items()):
        axes.plot(range(len(scores["use"])), [book["bits"] for book in scores["use"]], marker="o", color=COLOURS[3 * number],
                  label=voice)
        axes.axhline(math.log2(scores["cardinality"]), color="#c53030", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("codebook (the line: all entries equally often)")
    axes.set_ylabel("bits a frame")
    axes.legend(fontsize=8)
    return _png(figure)


def stages(result: dict) -> bytes | None:
    """Medians and 99th percentiles of the stages of a frame."""
    found = [(f"{lane} {stage}", s["p50_ms"], s["p99_ms"]) for lane, by_stage in result.items() if isinstance(by_stage, dict)
             for stage, s in by_stage.items() if isinstance(s, dict) and "p50_ms" in s and "p99_ms" in s]
    if not found:
        return None
    figure, axes = pyplot.subplots(figsize=(6, 0.3 * len(found) + 0.8))
    names = [name for name, _, _ in found]
    axes.barh(names, [p99 for _, _, p99 in found], color=COLOURS[1], label="p99")
    axes.barh(names, [p50 for _, p50, _ in found], color=COLOURS[0], label="p50")
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.legend(fontsize=8)
    return _png(figure)


def kinds(result: dict) -> bytes | None:
    """How answers end, by task: one bar each."""
    rows = {errors.TASK_NAMES[task]: row for task, row in (result.get("errors") or {}).get("by_task", {}).items() if row["n"]}
    if not rows:
        return None
    figure, axes = pyplot.subplots(figsize=(8, 0.4 * len(rows) + 1.4))
    left = [0.0] * len(rows)
    for number, (name, what) in enumerate(errors.KINDS.items()):
        widths = [100 * (row["right"]["value"] if name == "right" else row.get(name, 0)) for row in rows.values()]
        if any(widths):
            axes.barh(list(rows), widths, left=left, color=KIND_COLOURS[number], label=what)
            left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("per cent of the answers")
    axes.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    return _png(figure)


def sessions(result: dict) -> bytes | None:
    """The 99th percentile of a batch's frame by its conversations."""
    rows = result.get("by_rows") or []
    if not rows:
        return None
    figure, axes = pyplot.subplots(figsize=(6, 2.8))
    for key, colour in (("p99_ms", COLOURS[3]), ("p50_ms", COLOURS[0])):
        axes.plot([row["rows"] for row in rows], [row[key] for row in rows], marker="o", color=colour, label=key[:3])
    axes.axhline(80, color="#c53030", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks([row["rows"] for row in rows], [str(row["rows"]) for row in rows])
    axes.set_xlabel("conversations")
    axes.set_ylabel("ms a frame")
    axes.legend(fontsize=8)
    return _png(figure)


def call(result: dict) -> bytes | None:
    """Time of a frame and memory over a call."""
    rows = result.get("call") or []
    if not rows:
        return None
    figure, axes = pyplot.subplots(figsize=(6, 2.8))
    minutes = [row["until_minute"] for row in rows]
    for key, colour in (("p99_ms", COLOURS[3]), ("p50_ms", COLOURS[0])):
        axes.plot(minutes, [row[key] for row in rows], color=colour, label=f"frame {key[:3]}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes of the call")
    axes.set_ylabel("ms a frame")
    right = axes.twinx()
    right.plot(minutes, [row["memory_mb"] for row in rows], color=COLOURS[1], linestyle="--")
    right.set_ylim(bottom=0)
    right.set_ylabel("memory MB (dashed)")
    axes.legend(fontsize=8, loc="lower right")
    return _png(figure)


def _png(figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return data.getvalue()
