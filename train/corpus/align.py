"""Forced alignment: word times for clips whose engine gave none, and the measure of those that it gave.

    python -m train.corpus.align BANK              # fill in missing times
    python -m train.corpus.align BANK --measure 200  # how far the engines' times are from the aligner's

English only (pocketsphinx, whose model comes with its package). Every other line of the index keeps its bytes, and the new
index takes the place of the old one when it is whole.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duplex.errors import InputError
from duplex.text import Word
from duplex.units import SAMPLE_RATE
from train import cli
from train.corpus.bank import Bank, Clip
from train.corpus.exchange import LANGUAGES, MUMBLED, SOUNDS, split_key
from train.corpus.voices import resample_mono
from train.files import replace_file

RATE = 16_000
FRAME = 0.01  # seconds of the aligner's frames
MARGIN = 0.25  # silence around a clip, in which the aligner finds its feet
LETTERS = dict(zip("abcdefghijklmnopqrstuvwxyz", (
    "EY", "B IY", "S IY", "D IY", "IY", "EH F", "JH IY", "EY CH", "AY", "JH EY", "K EY", "EH L", "EH M", "EH N", "OW", "P IY",
    "K Y UW", "AA R", "EH S", "T IY", "Y UW", "V IY", "D AH B AH L Y UW", "EH K S", "W AY", "Z IY"), strict=True))
EXTRA = {"uh": "AH", "um": "AH M", "mhm": "M HH M", "duplex": "D UW P L EH K S", "baa": "B AA", "woof": "W UH F",
         "meow": "M IY AW", "crepe": "K R EY P"}


class Aligner:
    """Word times of known English text."""

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError:
            raise InputError("forced alignment needs pocketsphinx: pip install 'pocketsphinx>=5.1.1'") from None
        self.decoder = Decoder(lm=None, loglevel="FATAL")
        for word, phones in EXTRA.items():
            if self.decoder.lookup_word(word) is None:
                self.decoder.add_word(word, phones, True)
        for letter, phones in LETTERS.items():
            self.decoder.add_word(f"letter_{letter}", phones, True)

    def words(self, samples: np.ndarray, text: str) -> tuple[Word, ...]:
        """float32 [S] at 24 kHz -> one word for each of ``text.split()``; () where text and sound do not fit."""
        names = [self._name(w) for w in text.split()]
        if not all(names) or not names or any(self.decoder.lookup_word(n) is None for n in names):
            return ()
        pad = np.zeros(round(MARGIN * SAMPLE_RATE), np.float32)
        sound = np.clip(resample_mono(np.concatenate([pad, samples, pad]), SAMPLE_RATE, RATE), -1, 1)
        pcm = (sound * 32767 + np.random.default_rng(0).uniform(-2, 2, len(sound))).astype("<i2").tobytes()
        try:
            self.decoder.set_align_text(" ".join(names))
            self.decoder.start_utt()
            self.decoder.process_raw(pcm, full_utt=True)
            self.decoder.end_utt()
            found = [s for s in (self.decoder.seg() or ()) if not s.word.startswith(("<", "[", "+"))]
        except RuntimeError:  # the aligner found no path through the sound
            return ()
        if len(found) != len(names):
            return ()
        end = len(samples) / SAMPLE_RATE
        return tuple(Word(w, min(end, max(0.0, s.start_frame * FRAME - MARGIN)), min(end, (s.end_frame + 1) * FRAME - MARGIN))
                     for w, s in zip(text.split(), found, strict=True))

    @staticmethod
    def _name(word: str) -> str:
        bare = re.sub(r"[^A-Za-z']", "", word)
        return f"letter_{bare.lower()}" if bare.isupper() and len(bare) == 1 and bare != "I" else bare.lower()


def alignable(name: str) -> bool:
    """Whether a clip has English words that can be found in its sound."""
    text, mark = split_key(name)
    return bool(text) and mark not in (*LANGUAGES, *SOUNDS, MUMBLED, "beep", "scale") and not text.startswith("@")


@dataclass(frozen=True)
class Accuracy:
    """Distance of an engine's word times from forced alignment, in seconds."""

    engine: str
    words: int
    start_median: float
    start_p95: float
    start_bias: float
    """Median of engine minus aligner: below zero, the engine's times are early."""
    end_median: float
    end_bias: float


def measure(bank: Bank, count: int, seed: int = 0, role: str | None = None) -> list[Accuracy]:
    """The accuracy of each engine on ``count`` of its clips with word times (of a role, or all)."""
    aligner, rng = Aligner(), random.Random(seed)
    groups: dict[str, list[Clip]] = defaultdict(list)
    for clip in bank.clips:
        if clip.words and alignable(clip.text) and role in (None, clip.role):
            groups[clip.engine].append(clip)
    found = []
    for engine, clips in sorted(groups.items()):
        starts: list[float] = []
        ends: list[float] = []
        for clip in rng.sample(clips, min(count, len(clips))):
            samples, given = bank.samples(clip), clip.words
            for mine, its in zip(aligner.words(samples, split_key(clip.text)[0]), given, strict=False):
                starts.append(its.start - mine.start)
                ends.append(its.end - mine.end)
        if starts:
            distances = sorted(map(abs, starts))
            found.append(Accuracy(engine, len(starts), statistics.median(distances), distances[int(0.95 * (len(distances) - 1))],
                                  statistics.median(starts), statistics.median(map(abs, ends)), statistics.median(ends)))
    return found


def annotate(folder: Path, engine: str, aligner: Aligner) -> tuple[int, int]:
    """Write word times into the index of one engine; (clips filled, clips without times before)."""
    index = folder / f"{engine}.jsonl"
    lines, filled, missing = [], 0, 0
    pcm = np.memmap(folder / f"{engine}.pcm", dtype="<i2", mode="r")
    for line in index.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            continue
        entry = json.loads(line)
        if not entry["words"] and alignable(entry["text"]):
            missing += 1
            samples = pcm[entry["offset"] : entry["offset"] + entry["samples"]].astype(np.float32) / 32768.0
            peak = float(np.abs(samples).max()) or 1.0
            words = aligner.words(samples * (0.5 / peak), split_key(entry["text"])[0])
            if words:
                filled += 1
                entry["words"] = [[w.text, round(w.start, 3), round(w.end, 3)] for w in words]
                line = json.dumps(entry) + "\n"
            if missing % 50 == 0:
                print(f"\r{engine}: {filled} of {missing} clips aligned ", end="", flush=True)
        lines.append(line)
    replace_file(index, lambda part: part.write_text("".join(lines)))
    return filled, missing


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("corpus.align", __doc__)
    parser.add_argument("bank", type=Path)
    parser.add_argument("--engine", nargs="+", help="only these (two commands share the work)")
    parser.add_argument("--measure", type=int, metavar="CLIPS", help="measure so many clips an engine; writes nothing")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Fills or measures."""
    bank = Bank(args.bank)
    if args.measure:
        for a in measure(bank, args.measure):
            print(f"{a.engine}: {a.words} words, starts {1000 * a.start_median:.0f} ms median ({1000 * a.start_p95:.0f} ms p95, "
                  f"bias {1000 * a.start_bias:+.0f} ms), ends {1000 * a.end_median:.0f} ms (bias {1000 * a.end_bias:+.0f} ms)")
        return
    aligner = Aligner()
    for engine in args.engine or sorted({c.engine for c in bank.clips}):
        filled, missing = annotate(args.bank, engine, aligner)
        print(f"\r{engine}: {filled} of {missing} clips without word times aligned")


if __name__ == "__main__":
    raise SystemExit(main())
