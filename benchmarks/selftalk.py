"""Two instances of a model talk to each other: turn-taking statistics over temperatures.

Each hears the other's codes of the frame before, so nothing is decoded and encoded on the way (both sides of Moshi's own
evaluation are codes, too). One of them is greeted at the start, or at low temperatures both would wait for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks.rollout import decode_all, encode_all, read_row
from benchmarks.segments import speech
from duplex.checkpoint import LoadedModel
from duplex.errors import InputError
from duplex.metrics.turntaking import Segment, pooled, turn_taking_statistics
from duplex.metrics.words import longest_loop, plain
from duplex.units import frames_to_seconds, seconds_to_frames

# Seconds a minute on the Fisher corpus, and of published models on its prompts (arXiv:2410.00037, table 11).
PUBLISHED = {"Fisher, people": {"ipu": 51.1, "pause": 6.4, "gap": 4.2, "overlap": 3.3},
             "Moshi, temperature 1.0": {"ipu": 50.8, "pause": 7.0, "gap": 4.5, "overlap": 4.1},
             "dGSLM": {"ipu": 41.4, "pause": 13.8, "gap": 10.7, "overlap": 6.1}}


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
    return {"temperature": temperature} | summed(spans, texts, sum(map(len, words)), frames_to_seconds(frames))


def summed(spans: Sequence[list[Segment]], texts: Sequence[str], words: int, length: float) -> dict:
    """Statistics of dialogues of ``length`` seconds, pooled: of each the speech and the text of both sides, one after the other.

    ``words`` are those of all texts together.
    """
    pairs = list(zip(spans[0::2], spans[1::2], strict=True))
    loops = [longest_loop(plain(text).split()) >= 4 for text in texts]
    return pooled([turn_taking_statistics(*pair, length) for pair in pairs]) | {
        "loops": float(np.mean(loops)), "silent": float(np.mean([not any(pair) for pair in pairs])),
        "words_per_minute": 60 * words / (length * len(pairs))}


def table(found: Sequence[dict]) -> str:
    """Markdown: seconds and events per minute by temperature, the controls', and beside published values."""
    names = ("ipu", "pause", "gap", "overlap")
    lines = ["| text temperature | " + " | ".join(f"{n} s/min (per min)" for n in names) + " | loops | words/min |",
             "|---|" + "---:|" * 6]
    for row in found:
        cells = [f"{row[n]['seconds_per_minute']:.1f} ({row[n]['per_minute']:.1f})" for n in names]
        lines.append(f"| {row['control'] if 'control' in row else format(row['temperature'], 'g')} | " + " | ".join(cells)
                     + f" | {100 * row['loops']:.0f} % | {row['words_per_minute']:.0f} |")
    for name, values in PUBLISHED.items():
        lines.append(f"| *{name}* | " + " | ".join(f"*{values[n]:.1f}*" for n in names) + " | | |")
    return "\n".join(lines)
