"""Two instances of a model talk to each other: turn-taking statistics over temperatures.

Each hears the other's codes of the frame before, so nothing is decoded and encoded on the way (both sides of Moshi's own
evaluation are codes, too). One of them is greeted at the start, or at low temperatures both would wait for ever. Every dialogue
keeps its own rates: intervals are over dialogues, of which there are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks.rollout import decode_all, encode_all, read_row
from benchmarks.segments import speech
from benchmarks.statistics import mean
from duplex.checkpoint import LoadedModel
from duplex.errors import InputError
from duplex.metrics.turntaking import Segment, pooled, turn_taking_statistics
from duplex.metrics.words import longest_loop, plain
from duplex.units import frames_to_seconds, seconds_to_frames

# Seconds a minute on the Fisher corpus, and of published models on its prompts (arXiv:2410.00037, table 11).
PUBLISHED = {"Fisher, people": {"ipu": 51.1, "pause": 6.4, "gap": 4.2, "overlap": 3.3},
             "Moshi, temperature 1.0": {"ipu": 50.8, "pause": 7.0, "gap": 4.5, "overlap": 4.1},
             "dGSLM": {"ipu": 41.4, "pause": 13.8, "gap": 10.7, "overlap": 6.1}}
RATES = ("ipu", "pause", "gap", "overlap")


@torch.no_grad()
def self_talk(model: LoadedModel, greeting: np.ndarray, temperature: float, dialogues: int, seconds: float, seed: int) -> dict:
    """Statistics of so many dialogues of ``seconds`` at a text temperature, pooled; ``greeting`` float32 [T * 1920] opens each.

    Raises InputError for a model that hears fewer codebooks than it speaks.
    """
    layout = model.lm.layout
    if layout.n_user > layout.n_system:
        raise InputError(f"{model.folder}: hears {layout.n_user} codebooks but speaks {layout.n_system}; it cannot hear itself")
    engine = model.engine(replace(model.sampling, text_temperature=temperature, greedy=False))
    frames, pairs = seconds_to_frames(seconds), dialogues
    quiet_K = encode_all(model, [np.zeros_like(greeting)])[0][:, -1]
    opening_KT = encode_all(model, [greeting])[0]
    # Rows 2n and 2n + 1 are the two sides of dialogue n.
    state = engine.init_state(2 * pairs, [seed * 1000 + n for n in range(2 * pairs)])
    heard_BK = quiet_K.expand(2 * pairs, -1).clone()
    tokens = []
    for frame in range(frames):
        if frame < opening_KT.shape[1]:
            heard_BK[0::2] = opening_KT[:, frame]
        state, out = engine.step(state, heard_BK.contiguous())
        tokens.append(out.tokens[:, : 1 + layout.n_system].to(torch.int32))
        said_BK = out.tokens[:, layout.system_rows][:, : layout.n_user]
        other_BK = said_BK.reshape(pairs, 2, -1).flip(1).reshape(2 * pairs, -1)
        heard_BK = torch.where(other_BK >= 0, other_BK, quiet_K)
    tokens_BQT = torch.stack(tokens, -1).cpu().numpy()
    codes = [tokens_BQT[row, layout.system_rows].astype(np.int16) for row in range(2 * pairs)]
    spans = [speech(pcm) for pcm in decode_all(model, codes, engine.max_delay)]
    words = [read_row(model, tokens_BQT[row, layout.text_row].astype(np.int64), engine.max_delay) for row in range(2 * pairs)]
    texts = [" ".join(w.text for w in row) for row in words]
    return {"temperature": temperature} | summed(spans, texts, list(map(len, words)), frames_to_seconds(frames))


def summed(spans: Sequence[list[Segment]], texts: Sequence[str], words: Sequence[int], length: float) -> dict:
    """Statistics of dialogues of ``length`` seconds: of each the speech, text and number of words of both sides, side after side.

    Pooled; under "each" what every dialogue has by itself (seconds a minute; "loops" is the share of its sides that repeat
    themselves, "silent" whether nobody says anything), and under "estimates" their means with intervals over dialogues.
    """
    pairs = list(zip(spans[0::2], spans[1::2], strict=True))
    loops = [longest_loop(plain(text).split()) >= 4 for text in texts]
    statistics = [turn_taking_statistics(*pair, length) for pair in pairs]
    each = [{name: one[name]["seconds_per_minute"] for name in RATES}
            | {"loops": (loops[2 * n] + loops[2 * n + 1]) / 2, "silent": not any(pairs[n]),
               "words_per_minute": 60 * (words[2 * n] + words[2 * n + 1]) / length} for n, one in enumerate(statistics)]
    whole = pooled(statistics)
    estimates = {name: mean([one[name] for one in each]).to_dict() for name in each[0]}
    return whole | {name: estimates[name]["value"] for name in ("loops", "silent", "words_per_minute")} | {
        "each": each, "estimates": estimates}


def table(found: Sequence[dict]) -> str:
    """Markdown: seconds and events per minute by temperature, the controls', and beside published values.

    A result from before dialogues kept their own rates has neither intervals nor what goes with them.
    """
    told = all("estimates" in row for row in found)
    more = ["silent", "n"] if told else []
    titles = [*(f"{name} s/min (per min)" for name in RATES), "loops", "words/min", *more]
    lines = ["| text temperature | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(titles)]
    for row in found:
        cells = [f"{_sure(row, name, row[name]['seconds_per_minute'], 1)} ({row[name]['per_minute']:.1f})" for name in RATES]
        cells += [_sure(row, "loops", row["loops"], 0, 100) + " %", _sure(row, "words_per_minute", row["words_per_minute"], 0)]
        cells += [_sure(row, "silent", row["silent"], 0, 100) + " %", str(row["dialogues"])] if told else []
        name = row["control"] if "control" in row else format(row["temperature"], "g")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name, values in PUBLISHED.items():
        lines.append(f"| *{name}* | " + " | ".join(f"*{values[n]:.1f}*" for n in RATES) + " |" + " |" * (2 + len(more)))
    return "\n".join(lines)


def _sure(row: dict, name: str, value: float, digits: int, times: float = 1.0) -> str:
    """A number for the table, with its interval over dialogues where there is one."""
    said, estimate = f"{times * value:.{digits}f}", row.get("estimates", {}).get(name)
    return said if estimate is None else f"{said} [{times * estimate['low']:.{digits}f}, {times * estimate['high']:.{digits}f}]"
