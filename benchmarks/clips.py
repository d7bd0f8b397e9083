"""The voices of the benches: lines of the scripts spoken by held-out speakers, made when needed and kept in a folder.

The engines are those of the corpus and install from package registries; whichever is missing is left out, and named. A clip is
a function of its line, its speaker and a seed, so the same seed makes the same items on every machine with the same engines.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from duplex.errors import InputError
from duplex.text import Word
from train.corpus import lines
from train.corpus.bank import Request, speak
from train.corpus.exchange import SOUNDS, split_key
from train.corpus.sounds import SoundEngine
from train.corpus.speakers import Speaker, of_split
from train.corpus.style import gain_range, peak_of
from train.corpus.voices import Engine, EngineMissing, EspeakEngine, FliteEngine, HibariEngine, PiperEngine, Utterance, trim

ENGINES = {"hibari": HibariEngine, "flite": FliteEngine, "espeak": EspeakEngine, "piper": PiperEngine}
TIMED = ("hibari",)  # engines that tell the times of words


class Clips:
    """Speaks lines as users and as the system. ``speakers`` are those of a split that can speak here, held out by default."""

    def __init__(self, folder: str | Path, engines: Sequence[str] = tuple(ENGINES), split: str = "test"):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._engines: dict[str, Engine] = {"sounds": SoundEngine()}
        self.missing: dict[str, str] = {}
        for name in engines:
            try:
                self._engines[name] = ENGINES[name]()
            except EngineMissing as missing:
                self.missing[name] = str(missing)
        if len(self._engines) == 1:
            raise InputError("no speech engine is here to speak the items; " + "; ".join(self.missing.values()))
        self.speakers = [s for s in of_split(split) if s.engine in self._engines]
        self._held: dict[str, Utterance] = {}

    @property
    def versions(self) -> dict[str, str]:
        """The engines in use, for the record of a result."""
        return {name: _version(name) for name in self._engines if name != "sounds"}

    def foreigners(self, language: str) -> list[Speaker]:
        """Held-out speakers of another language."""
        return [s for s in of_split("test", language=language) if s.engine in self._engines]

    def timed(self) -> list[Speaker]:
        """The speakers whose clips come with the times of their words; InputError without any."""
        found = [s for s in self.speakers if s.engine in TIMED]
        if not found:
            raise InputError("the times of words come from hibari-tts: pip install hibari-tts==0.2.1 onnx onnxruntime")
        return found

    def user(self, name: str, speaker: Speaker, seed: int) -> Utterance:
        """A line (with its mark, see `train.corpus.exchange`) as a user says it, without silence around it."""
        if split_key(name)[1] in SOUNDS:
            request = Request(name, f"v{seed % 16}", "user")
            return self._clip("sounds", request, f"sounds:{request.voice}")
        return self._clip(speaker.engine, lines.request(speaker, name, random.Random(f"{seed}:{name}")), f"{speaker.name}:{seed}")

    def system(self, name: str) -> Utterance | None:
        """A line as the system should say it; None where no engine here speaks so (another language)."""
        mark = split_key(name)[1]
        if mark in ("beep", "scale"):
            return self._clip("sounds", Request(name, "v0", "system"), "system")
        if mark:
            return None
        for engine, voice in ((lines.SYSTEM_ENGINE, lines.SYSTEM_VOICE), *(("flite", "slt"), ("espeak", "en-us+f2"))):
            if engine in self._engines:
                return self._clip(engine, Request(name, voice, "system"), "system")
        return None

    def _clip(self, engine: str, request: Request, who: str) -> Utterance:
        wanted = f"{engine}|{request}|{_version(engine)}"
        identity = hashlib.sha256(f"{wanted}|{who}".encode()).hexdigest()[:24]
        if identity not in self._held:
            path = self.folder / f"{identity}.npz"
            if not path.exists():
                said = speak(self._engines[engine], request)
                peak = max(1e-4, float(np.abs(said.samples).max())) if len(said.samples) else 1.0
                samples, moved = trim(said.samples * (peak_of(split_key(request.text)[1]) / peak))
                words = [[w.text, max(0.0, w.start - moved), max(0.0, w.end - moved)] for w in said.words]
                _store(path, np.round(samples * 32767).astype(np.int16), words)
            with np.load(path) as file:
                words = tuple(Word(*w) for w in json.loads(file["words"].tobytes()))
                self._held[identity] = Utterance(file["samples"].astype(np.float32) / 32768, words)
        return self._held[identity]


def gain(rng: random.Random, mark: str = "") -> float:
    """A factor on a user's channel, of the range that training has."""
    low, high = gain_range(mark)
    return 10 ** (rng.uniform(max(low, -10.0), high) / 20)


def _store(path: Path, samples: np.ndarray, words: list) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")  # several benches may want the same clip at once
    with open(part, "wb") as file:
        np.savez(file, samples=samples, words=np.frombuffer(json.dumps(words).encode(), np.uint8))
    part.replace(path)


_VERSIONS: dict[str, str] = {}
_PACKAGES = {"hibari": "hibari-tts", "piper": "piper-tts"}
_PROGRAMS = {"flite": ["flite", "--version"], "espeak": ["espeak-ng", "--version"]}


def _version(engine: str) -> str:
    if engine not in _VERSIONS:
        if engine in _PACKAGES:
            from importlib.metadata import version

            _VERSIONS[engine] = version(_PACKAGES[engine])
        elif engine in _PROGRAMS and shutil.which(_PROGRAMS[engine][0]):
            said = subprocess.run(_PROGRAMS[engine], capture_output=True, text=True).stdout.splitlines()
            found = re.search(r"\d+\.[\d.]+\d|\d+\.\d", " ".join(line for line in said if "opyright" not in line))
            _VERSIONS[engine] = found.group() if found else "?"
        else:
            _VERSIONS[engine] = "1"
    return _VERSIONS[engine]
