"""The five things called latency, kept apart.

    algorithmic   what the method itself waits for: one frame and the acoustic delay. No computer shortens it.
    compute       processing of one frame.
    first packet  from the start of a session to its first sound: the algorithmic latency and the compute until then.
    response      from the end of the user's words to the system's sound: a habit of the model, in frames.
    stop          from the user's first sound while the system speaks to the system's silence: likewise.

The last two are read off one conversation with the recorded user that comes with the product. How a model converses is the matter
of the dialogue bench; few events say little, and `n` tells how many there were.
"""

from __future__ import annotations

import importlib.resources
import statistics as stats
import time
from pathlib import Path

import numpy as np

from duplex.audio import pad_to_frames, read_audio, to_mono
from duplex.checkpoint import LoadedModel
from duplex.session import Session
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS

_WITHIN = 50  # frames in which a response or a stop belongs to its cause


def recorded_user() -> np.ndarray:
    """The demonstration's user, float32 [T, 1920]."""
    path = Path(str(importlib.resources.files("duplex"))) / "assets" / "demo" / "user.wav"
    return pad_to_frames(to_mono(read_audio(path))).reshape(-1, FRAME_SAMPLES)


def five_kinds(model: LoadedModel, compute: dict[str, float], seed: int = 0) -> dict[str, dict]:
    """Each kind under its name, in ms; `compute` are the statistics of a session's step."""
    algorithmic = 1e3 * FRAME_SECONDS * (1 + model.config.max_delay)
    user = recorded_user()
    start = time.perf_counter()
    session = Session(model, seed=seed)
    frames = []
    first = None
    for pcm in user:
        frames.append(session.step(pcm))
        if first is None and frames[-1].text_token >= 0:  # the first frame that is not silent by delay
            first = 1e3 * (time.perf_counter() - start)
    system = np.array([frame.system_active for frame in frames])
    heard = np.array([frame.user_active for frame in frames])
    frame_ms = 1e3 * FRAME_SECONDS
    return {
        "algorithmic": {"ms": algorithmic, "what": f"one frame and {model.config.max_delay} frame(s) of acoustic delay"},
        "compute": {"p50_ms": compute["p50_ms"], "p99_ms": compute["p99_ms"], "what": "one session step"},
        "first packet": {"ms": None if first is None else round(algorithmic + first, 1),
                         "compute_ms": None if first is None else round(first, 1), "what": "new session to first sound"},
        "response": _habit(responses(heard, system), frame_ms, "end of the user's sound to the system's"),
        "stop": _habit(stops(heard, system), frame_ms, "the user's sound to the system's silence"),
    }


def _habit(frames: list[int], frame_ms: float, what: str) -> dict:
    # A frame's sound is heard when the frame is complete, one frame after it began.
    median = None if not frames else round(frame_ms * (1 + stats.median(frames)), 1)
    return {"median_ms": median, "n": len(frames), "what": what}


def responses(user: np.ndarray, system: np.ndarray) -> list[int]:
    """Frames from each end of the user's speech, with the system silent, to the system's onset before the user speaks again."""
    found = []
    for end in np.flatnonzero(user[:-1] & ~user[1:]) + 1:
        if system[end - 1]:
            continue
        for later in range(end, min(end + _WITHIN, len(user))):
            if system[later]:
                found.append(int(later - end))
            if system[later] or user[later]:
                break
    return found


def stops(user: np.ndarray, system: np.ndarray) -> list[int]:
    """Frames from each onset of the user while the system speaks to the system's silence, where it comes at all."""
    found = []
    for onset in np.flatnonzero(~user[:-1] & user[1:]) + 1:
        if system[onset - 1 : onset + 1].all():
            quiet = np.flatnonzero(~system[onset : onset + _WITHIN])
            found += [int(quiet[0])] if len(quiet) else []
    return found
