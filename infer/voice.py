"""Voices for scripted users: a small adapter over speech engines that are installed, or recordings.

Engines by name: `hibari` (PyPI hibari-tts), `espeak-ng` and `flite` (programs). Each gives the same sound for the same
text every time.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from duplex.audio import read_audio, to_mono
from duplex.errors import InputError
from duplex.units import SAMPLE_RATE

ENGINES = ("hibari", "espeak-ng", "flite")
_INSTALL = {"hibari": "pip install hibari-tts==0.2.1", "espeak-ng": "apt-get install espeak-ng", "flite": "apt-get install flite"}
_DEFAULT_VOICE = {"hibari": "", "espeak-ng": "en-us", "flite": "slt"}
LEVEL = 0.08
"""RMS of what a voice says, -22 dB."""


def available() -> list[str]:
    """The engines that are here."""
    return [name for name in ENGINES if _is_here(name)]


def speak(text: str, voice: str = "auto") -> np.ndarray:
    """What a voice says, float32 [S] at 24 kHz without silence at its ends; `voice` is "engine" or "engine:voice".

    Raises InputError when the engine is not here or has no such voice.
    """
    engine, _, name = voice.partition(":")
    if engine == "auto":
        found = available()
        if not found:
            raise InputError(f"no voice to speak {text!r} with; {_INSTALL['espeak-ng']}, or give clips in the script")
        engine = found[0]
    if engine not in ENGINES:
        raise InputError(f"voice {voice}: no such engine; use one of {', '.join(ENGINES)}")
    if not _is_here(engine):
        raise InputError(f"voice {voice}: the engine is not installed; {_INSTALL[engine]}")
    return _spoken(engine, name or _DEFAULT_VOICE[engine], text).copy()


@functools.lru_cache(maxsize=256)
def _spoken(engine: str, name: str, text: str) -> np.ndarray:
    if engine == "hibari":
        pcm = _hibari()(text, seed=0)
    else:
        pcm = _program(engine, name, text)
    return trimmed(np.asarray(pcm, np.float32), text)


@functools.lru_cache(maxsize=1)
def _hibari():
    from hibari import Hibari

    return Hibari()


def _is_here(engine: str) -> bool:
    return importlib.util.find_spec("hibari") is not None if engine == "hibari" else shutil.which(engine) is not None


def _program(engine: str, name: str, text: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "said.wav")
        command = {"espeak-ng": ["espeak-ng", "-v", name, "-w", str(out), "--", text],
                   "flite": ["flite", "-voice", name, "-t", text, "-o", str(out)]}[engine]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode or not out.is_file():
            reason = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
            raise InputError(f"voice {engine}:{name}: {reason}; choose another voice")
        return to_mono(read_audio(out))


def trimmed(pcm: np.ndarray, what: str) -> np.ndarray:
    """Without the silence before and after, and at a common loudness: scripted times are then those of the speech."""
    loud = np.abs(pcm) > 0.01 * max(float(np.abs(pcm).max(initial=0.0)), 1e-3)
    if not loud.any():
        raise InputError(f"{what!r}: gives no sound; write something that can be said")
    first, last = int(loud.argmax()), len(loud) - int(loud[::-1].argmax())
    pcm = pcm[first:last]
    pcm = pcm * (LEVEL / float(np.sqrt(np.mean(np.square(pcm, dtype=np.float64)))))
    ramp = min(SAMPLE_RATE // 200, len(pcm) // 2)
    if ramp:
        pcm[:ramp] *= np.linspace(0, 1, ramp)
        pcm[-ramp:] *= np.linspace(1, 0, ramp)
    return np.clip(pcm, -1, 1).astype(np.float32)
