"""The utterance bank: every clip that dialogues are mixed from, spoken once and kept as 16-bit samples.

``DIR/{engine}.pcm`` holds the clips end to end (int16, 24 kHz); ``DIR/{engine}.jsonl`` one line a clip:
``{"text", "voice", "role", "offset", "samples", "words"}``. A clip counts only when its line is complete, so a
killed run leaves a usable bank and the next run goes on after the last clip.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duplex.errors import InputError
from duplex.jsonfile import parse_json, read_bytes, seconds
from duplex.text import Word
from duplex.units import SAMPLE_RATE
from duplex.wording import show
from train.corpus.exchange import MUMBLED, split_key
from train.corpus.style import peak_of, styled
from train.corpus.timing import trimmed
from train.corpus.voices import Engine, Utterance, resample_mono, trim
from train.files import replace_file


def speaker_name(voice: str, warp: float = 1.0, pitch: float = 1.0) -> str:
    """Name of the speaker heard: the voice, its warp and its pitch where they are changed."""
    return voice + (f"*{warp:.2f}" if warp != 1.0 else "") + (f"^{pitch:.2f}" if pitch != 1.0 else "")


@dataclass(frozen=True)
class Request:
    """One clip to be spoken. ``text`` may carry a mark (`train.corpus.exchange.key`).

    ``warp`` scales pitch and formants together (a longer or shorter vocal tract), ``pitch`` the fundamental alone.
    ``who`` names the speaker where a manner of speaking changed the pitch.
    """

    text: str
    voice: str
    role: str
    speed: float = 1.0
    warp: float = 1.0
    seed: int = 0
    pitch: float = 1.0
    who: str = ""

    @property
    def speaker(self) -> str:
        """Name of the speaker heard."""
        return self.who or speaker_name(self.voice, self.warp, self.pitch)


@dataclass(frozen=True)
class Clip:
    """A spoken text in the bank."""

    text: str
    speaker: str
    role: str
    offset: int
    samples: int
    words: tuple[Word, ...]
    engine: str


def warp(utterance: Utterance, factor: float) -> Utterance:
    """Play faster or slower by ``factor``: pitch and formants rise with it, times shrink."""
    if factor == 1.0:
        return utterance
    source = round(SAMPLE_RATE * factor / 240) * 240  # a hundredth: coarser ratios make shorter filters
    samples = resample_mono(utterance.samples, source, SAMPLE_RATE)
    ratio = SAMPLE_RATE / source
    return Utterance(samples, tuple(Word(w.text, w.start * ratio, w.end * ratio) for w in utterance.words))


def speak(engine: Engine, request: Request) -> Utterance:
    """One clip: the engine's words, the speaker's vocal tract, and the manner that the mark asks for."""
    text, mark = split_key(request.text)
    if engine.name == "sounds":  # a sound has no text to be spoken
        return engine.say(request.text, request.voice, request.speed, request.seed)
    voice = request.voice if request.pitch == 1.0 else f"{request.voice}^{request.pitch:.2f}"
    # The warp shortens what the engine says, so the engine speaks the slower by it.
    said = warp(engine.say(text, voice, request.speed / request.warp, request.seed), request.warp)
    words = () if mark == MUMBLED else said.words
    return Utterance(styled(said.samples, mark, request.seed), words)


def fill(folder: Path, engine: Engine, requests: Iterable[Request]) -> Iterator[int]:
    """Speak the requests that the bank does not hold yet; yields the number done after each new clip."""
    folder.mkdir(parents=True, exist_ok=True)
    index, audio = folder / f"{engine.name}.jsonl", folder / f"{engine.name}.pcm"
    done = _complete_lines(index)
    entries = [json.loads(line) for line in done]
    end = sum(entry["samples"] for entry in entries) * 2
    held = Counter((entry["text"], entry["voice"], entry["role"]) for entry in entries)
    if index.exists() and index.read_text() != "".join(done):  # a line was being written when the last run was stopped
        replace_file(index, lambda part: part.write_text("".join(done)))
    with open(audio, "ab") as pcm:
        pcm.truncate(end)
    with open(audio, "ab") as pcm, open(index, "a") as lines:
        for number, request in enumerate(requests):
            name = (request.text, f"{engine.name}:{request.speaker}", request.role)
            if held[name]:
                held[name] -= 1
                continue
            utterance = speak(engine, request)
            peak = float(np.abs(utterance.samples).max()) if len(utterance.samples) else 0.0
            pcm16 = np.round(utterance.samples * (peak_of(split_key(request.text)[1]) / max(peak, 1e-4)) * 32767).astype("<i2")
            entry = {"text": request.text, "voice": name[1], "role": request.role,
                     "offset": end // 2, "samples": len(pcm16),
                     "words": [[w.text, round(w.start, 3), round(w.end, 3)] for w in utterance.words]}
            pcm.write(pcm16.tobytes())
            pcm.flush()
            lines.write(json.dumps(entry) + "\n")
            lines.flush()
            end += 2 * len(pcm16)
            yield number + 1


def _clip(line: str, where: str, engine: str, held: int) -> Clip:
    """The clip of one line of an index whose sound has `held` samples; InputError for what is none."""
    entry = parse_json(line, where)
    try:
        clip = Clip(entry["text"], entry["voice"], entry["role"], entry["offset"], entry["samples"],
                    trimmed(Word(*word) for word in entry["words"]), engine)
        texts = all(isinstance(text, str) for text in (clip.text, clip.speaker, clip.role, *(word.text for word in clip.words)))
        times = all(math.isfinite(seconds(time)) for word in clip.words for time in (word.start, word.end))
        numbers = type(clip.offset) is int and type(clip.samples) is int
        if not (texts and times and numbers and 0 <= clip.offset <= clip.offset + clip.samples <= held):
            raise ValueError("it lies outside of its sound")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{where} is no clip ({show(str(error), 120)}); speak the bank again") from None
    return clip


def _complete_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not an index of clips; speak the bank again") from None
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


class Bank:
    """Read access: clips by text and role, samples by clip."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.clips: list[Clip] = []
        self._pcm: dict[str, np.ndarray] = {}
        self._timing: dict[tuple[str, int], tuple[float, tuple[Word, ...]]] = {}
        self._by_text: dict[tuple[str, str], list[Clip]] = defaultdict(list)
        for index in sorted(self.folder.glob("*.jsonl")):
            engine = index.stem
            lines, sound = _complete_lines(index), self.folder / f"{engine}.pcm"
            held = sound.stat().st_size // 2 if sound.is_file() else 0  # after the lines: a bank may be growing
            for number, line in enumerate(lines, 1):
                clip = _clip(line, f"{index}: line {number}", engine, held)
                if clip.samples > 0:
                    self.clips.append(clip)
                    self._by_text[clip.role, clip.text].append(clip)
            if held:  # an empty file cannot be mapped
                self._pcm[engine] = np.memmap(sound, dtype="<i2", mode="r")
        if not self.clips:
            raise InputError(f"{folder}: no clips; make them with python -m train.speak --out {folder}")

    def find(self, role: str, text: str) -> list[Clip]:
        """Clips of a text, in the order they were made."""
        return self._by_text.get((role, text), [])

    def samples(self, clip: Clip) -> np.ndarray:
        """float32 [S] at 24 kHz, peak 0.5 unless the clip's mark says otherwise."""
        return self._pcm[clip.engine][clip.offset : clip.offset + clip.samples].astype(np.float32) / 32768.0

    def speech(self, clip: Clip) -> Utterance:
        """The clip without the silence around it, word times counted from the first sample kept."""
        samples, moved = trim(self.samples(clip))
        words = tuple(Word(w.text, max(0.0, w.start - moved), max(0.0, w.end - moved)) for w in clip.words)
        return Utterance(samples, words)

    def timing(self, clip: Clip) -> tuple[float, tuple[Word, ...]]:
        """Length in seconds and word times of `speech`, remembered."""
        key = (clip.engine, clip.offset)
        if key not in self._timing:
            speech = self.speech(clip)
            self._timing[key] = (speech.seconds, speech.words)
        return self._timing[key]
