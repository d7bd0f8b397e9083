"""Real human speech: lines joined from the word recordings of the Debian package asterisk-core-sounds-en-g722.

Recorded by Allison Smith, CC-BY-SA-3.0. The package has numbers, days, "plus", "hello", "goodbye" and some
hundreds of telephone prompts: enough to say several scripts with a human voice.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np

from duplex.text import Word
from duplex.units import SAMPLE_RATE
from train.corpus import scripts
from train.corpus.bank import Request
from train.corpus.voices import EngineMissing, Utterance, trim

FOLDER = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
FILES = {
    "hello": "hello", "hello world": "hello-world", "goodbye": "vm-goodbye", "bye": "vm-goodbye", "thank you": "auth-thankyou",
    "is": "is", "today": "digits/today", "plus": "letters/plus", "equals": "letters/equals",
    **{word: f"digits/{n}" for n, word in enumerate(scripts.NUMBERS)},
    **{day: f"digits/day-{(n + 1) % 7}" for n, day in enumerate(scripts.DAYS)},
}
PHRASES = ("hello world", "thank you")  # recordings of more than one word
GAP = {",": 0.16}  # seconds of silence after a mark; words without a mark follow closely
CLOSE = 0.03


class AsteriskEngine:
    """Joins recorded words. Word times are exact, being the places where clips were laid."""

    name = "asterisk"

    def __init__(self) -> None:
        if not FOLDER.is_dir():
            raise EngineMissing("recordings are not installed: apt-get install asterisk-core-sounds-en-g722 ffmpeg")
        if shutil.which("ffmpeg") is None:
            raise EngineMissing("ffmpeg is not installed: apt-get install ffmpeg")
        self._cache: dict[str, np.ndarray] = {}

    def voices(self) -> list[str]:
        return ["allison"]

    def recording(self, name: str) -> np.ndarray:
        """One prompt of the package as float32 [S] at 24 kHz, silence cut."""
        if name not in self._cache:
            command = ["ffmpeg", "-v", "error", "-f", "g722", "-i", str(FOLDER / f"{name}.g722"), "-ar", str(SAMPLE_RATE),
                       "-f", "f32le", "-ac", "1", "-"]
            raw = subprocess.run(command, check=True, capture_output=True).stdout
            self._cache[name] = trim(np.frombuffer(raw, dtype=np.float32), 0.02, 0.01)[0]
        return self._cache[name]

    def say(self, text: str, voice: str = "allison", speed: float = 1.0, seed: int = 0) -> Utterance:
        if text.startswith("@"):
            return Utterance(self.recording(text[1:]))
        parts, words, clock = [], [], 0.0
        for unit in _units(text):
            samples = self.recording(FILES[unit.rstrip(",.?!")])
            seconds = len(samples) / SAMPLE_RATE
            gap = GAP.get(unit[-1], CLOSE)
            names = unit.split()
            each = seconds / len(names)
            words += [Word(w, clock + i * each, clock + (i + 1) * each) for i, w in enumerate(names)]
            parts += [samples, np.zeros(round(gap * SAMPLE_RATE), np.float32)]
            clock += seconds + gap
        return Utterance(np.concatenate(parts[:-1]), tuple(words))

    def requests(self) -> list[Request]:
        """All script lines that the recordings can say, in three vocal-tract lengths, then every prompt as it is."""
        n = scripts.NUMBERS
        lines = ["hello", "hello world", "goodbye", "bye", "thank you"] * 4
        lines += [form.format(a=n[a], b=n[b]) for a, b in itertools.product(range(1, 11), repeat=2)
                  for form in ("{a} plus {b}", "{a} plus {b} equals")]
        lines += [", ".join(n[a : a + k]) for a in range(1, 9) for k in (3, 4)] * 2
        lines += [f"today is {day}" for day in scripts.DAYS] * 3
        wanted = [Request(line, "allison", "user", warp=(1.0, 0.93, 1.08)[i % 3]) for i, line in enumerate(lines * 2)]
        prompts = sorted(p.relative_to(FOLDER).with_suffix("").as_posix() for p in FOLDER.rglob("*.g722"))
        noises = ("silence/", "beep", "tone", "confbridge-join", "confbridge-leave", "tt-monkeys")
        return wanted + [Request("@" + p, "allison", "free") for p in prompts if not any(x in p for x in noises)]


def _units(text: str) -> list[str]:
    """Split a text into recorded units: known phrases first, single words otherwise; marks stay attached."""
    for phrase in PHRASES:
        if text == phrase:
            return [phrase]
    return text.split()
