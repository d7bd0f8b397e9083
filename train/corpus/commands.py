"""Engines of the Debian archive: Festival Lite as a command, eSpeak NG as a library."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import math
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from duplex.text import Word
from duplex.units import SAMPLE_RATE
from train.corpus.timing import matched, trimmed
from train.corpus.utterance import EngineMissing, Utterance, resample_mono, without_silence


class FliteEngine:
    """Festival Lite's clustergen voices (16 kHz), 35 times real time. Its phone times become word times."""

    name = "flite"

    def __init__(self) -> None:
        if shutil.which("flite") is None:
            raise EngineMissing("flite is not installed: apt-get install flite")

    def voices(self) -> list[str]:
        return ["slt", "rms", "awb", "kal16"]

    def say(self, text: str, voice: str, speed: float = 1.0, seed: int = 0) -> Utterance:
        import soundfile

        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder) / "said.wav"
            command = ["flite", "-voice", voice, "-psdur", "--setf", f"duration_stretch={1 / speed:.3f}", "-t", text, "-o", wav]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            samples, rate = soundfile.read(wav, dtype="float32")
        phones, clock = [], 0.0
        for field in printed.split():
            phone, _, end = field.rpartition(":")
            if phone != "pau":
                phones.append((phone, clock, float(end)))
            clock = float(end)
        lexicon = [_flite_phones(word.rstrip(",.?!"), voice) for word in text.split()]
        words = matched(phones, lexicon, text.split())
        return without_silence(Utterance(resample_mono(samples, rate, SAMPLE_RATE), words))


@functools.lru_cache(maxsize=4096)
def _flite_phones(word: str, voice: str) -> tuple[str, ...]:
    """The phones of a word spoken alone."""
    command = ["flite", "-voice", voice, "-ps", "-t", word, "-o", "none"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tuple(p for p in printed.split() if p != "pau")


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = [("type", ctypes.c_int), ("unique", ctypes.c_uint), ("position", ctypes.c_int), ("length", ctypes.c_int),
                ("milliseconds", ctypes.c_int), ("sample", ctypes.c_int), ("user", ctypes.c_void_p), ("name", ctypes.c_char * 8)]


class _Voice(ctypes.Structure):
    """espeak_VOICE of speak_lib.h."""

    _fields_ = [("name", ctypes.c_char_p), ("languages", ctypes.c_char_p), ("identifier", ctypes.c_char_p),
                ("gender", ctypes.c_ubyte), ("age", ctypes.c_ubyte), ("variant", ctypes.c_ubyte), ("unused", ctypes.c_ubyte),
                ("score", ctypes.c_int), ("spare", ctypes.c_void_p)]


_WORD, _END = 1, 5  # espeak_EVENT_TYPE
_SYNCHRONOUS, _UTF8, _RATE, _PITCH = 2, 1, 1, 3
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class EspeakEngine:
    """eSpeak NG formant voices, hundreds of times real time; the library tells where each word begins."""

    name = "espeak"

    def __init__(self) -> None:
        if ctypes.util.find_library("espeak-ng") is None:
            raise EngineMissing("espeak-ng is not installed: apt-get install espeak-ng")

    def voices(self) -> list[str]:
        return ["en-us+m1", "en-us+m3", "en-us+f2", "en-us+f4", "en-gb+m7", "en-gb+f1", "en-us+klatt2"]

    @functools.cached_property
    def _library(self) -> tuple[ctypes.CDLL, int]:
        """The library and its sample rate."""
        library = ctypes.CDLL(ctypes.util.find_library("espeak-ng"))
        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, None, 0)
        if rate <= 0:
            raise EngineMissing("espeak-ng finds no voices: apt-get install --reinstall espeak-ng-data")
        return library, rate

    def say(self, text: str, voice: str, speed: float = 1.0, seed: int = 0) -> Utterance:
        """``voice`` may end in ``^factor``: the pitch, on eSpeak's scale of 0 to 99 around 50 (45 points an octave)."""
        library, rate = self._library
        voice, _, pitch = voice.partition("^")
        points = 50 if not pitch else int(min(99, max(0, 50 + 45 * math.log2(float(pitch)))))
        by_language = _Voice(languages=voice.encode())  # "en-gb" is a language and no voice's name
        if library.espeak_SetVoiceByName(voice.encode()) and library.espeak_SetVoiceByProperties(ctypes.byref(by_language)):
            raise EngineMissing(f"espeak-ng has no voice {voice}: apt-get install espeak-ng-data")
        library.espeak_SetParameter(_RATE, int(165 * speed), 0)
        library.espeak_SetParameter(_PITCH, points, 0)
        parts: list[np.ndarray] = []
        starts: dict[int, float] = {}  # place in the text -> seconds
        end = 0.0

        def heard(sound, count, events) -> int:
            nonlocal end
            if sound and count > 0:
                parts.append(np.ctypeslib.as_array(sound, (count,)).astype(np.float32) / 32768.0)
            n = 0
            while events[n].type:
                if events[n].type == _WORD:
                    starts.setdefault(events[n].position - 1, events[n].sample / rate)
                elif events[n].type == _END:
                    end = events[n].sample / rate
                n += 1
            return 0

        callback = _CALLBACK(heard)
        library.espeak_SetSynthCallback(callback)
        data = text.encode()
        library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None)
        samples = resample_mono(np.concatenate(parts), rate, SAMPLE_RATE) if parts else np.zeros(0, np.float32)
        return without_silence(Utterance(samples, _from_starts(text, starts, end or len(samples) / SAMPLE_RATE)))


def _from_starts(text: str, starts: dict[int, float], end: float) -> tuple[Word, ...]:
    """Words from the times at which they begin, by their place in the text; a word ends where the next begins."""
    places, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        places.append(at)
        at += len(word)
    found = [next((starts[p] for p in sorted(starts) if place <= p < place + len(word)), None)
             for place, word in zip(places, text.split(), strict=True)]
    if any(s is None for s in found):
        return ()
    ends = [*found[1:], end]
    return trimmed(Word(w, s, e) for w, s, e in zip(text.split(), found, ends, strict=True))
