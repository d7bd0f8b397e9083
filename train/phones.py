"""Frame-level phone labels of an utterance bank, by forced alignment of the texts that are known anyway.

    python -m train.phones --bank BANK --out PHONES [--workers 2] [--share 1.0]

The codec's semantic codebook learns them beside (or instead of) a teacher's features: a label says what was said and nothing of
who said it. Writes labels.npy uint8 [N], 20 ms a row, clip after clip; starts.npy [clips + 1]; clips.json, which clips they
are; phones.json, the names. Clips that cannot be aligned (another language, mumbling, noise) are left out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from duplex.errors import InputError
from duplex.units import SAMPLE_RATE
from train import cli
from train.codec_data import TEACHER_HOP
from train.corpus.bank import Bank, Clip
from train.corpus.speakers import HELD_OUT
from train.corpus.voices import resample_mono
from train.files import replace_file

PHONES = ("SIL AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH").split()
NUMBER = {name: n for n, name in enumerate(PHONES)}
ALIGNER_RATE = 16_000
CHUNK = 64  # clips a task


class Aligner:
    """English forced alignment by pocketsphinx, whose model comes with its package."""

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError:
            raise InputError("train.phones needs pocketsphinx: pip install 'pocketsphinx>=5.1.1'") from None
        self.decoder = Decoder(lm=None, loglevel="FATAL")

    def labels(self, samples: np.ndarray, text: str) -> np.ndarray | None:
        """float32 [S] at 24 kHz -> uint8 [S // 480], or None where text and sound do not fit."""
        words = re.sub(r"[^a-z' ]", " ", text.lower()).split()
        if not words or any(self.decoder.lookup_word(w) is None for w in words):
            return None
        sound = np.clip(resample_mono(samples, SAMPLE_RATE, ALIGNER_RATE), -1, 1)
        pcm16 = (sound * 32767).astype("<i2").tobytes()
        try:
            self.decoder.set_align_text(" ".join(words))
            self._pass(pcm16)
            self.decoder.set_alignment()
            self._pass(pcm16)
        except RuntimeError:  # the aligner found no path through the sound
            return None
        rows = np.zeros(len(samples) // TEACHER_HOP, np.uint8)
        for word in self.decoder.get_alignment() or ():
            for phone in word:
                rows[(phone.start + 1) // 2 : (phone.start + phone.duration + 1) // 2] = NUMBER.get(phone.name, 0)
        return rows

    def _pass(self, pcm16: bytes) -> None:
        self.decoder.start_utt()
        self.decoder.process_raw(pcm16, full_utt=True)
        self.decoder.end_utt()


_aligner: Aligner | None = None


def _align(task: tuple[Path, list[Clip]]) -> list[np.ndarray | None]:
    global _aligner
    _aligner = _aligner or Aligner()
    bank = Bank.__new__(Bank)  # the clips are known: map the samples of their engines alone
    bank._pcm = {e: np.memmap(task[0] / f"{e}.pcm", dtype="<i2", mode="r") for e in {c.engine for c in task[1]}}
    return [_aligner.labels(bank.samples(c), c.text) for c in task[1]]


def chosen_clips(bank: Bank, share: float) -> list[Clip]:
    """All clips of training's users and a fixed ``share`` of the system's, which are many of one voice."""
    rng = random.Random(0)
    return [c for c in bank.clips if (rng.random() < share or c.role == "user") and not (
        c.role == "user" and c.speaker in HELD_OUT)]


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("phones", __doc__)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0, help="share of the system's clips to take")
    parser.add_argument("--workers", type=int, default=1)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Writes the labels of a bank."""
    clips = chosen_clips(Bank(args.bank), args.share)
    tasks = [(args.bank, clips[i : i + CHUNK]) for i in range(0, len(clips), CHUNK)]
    found: list[tuple[Clip, np.ndarray]] = []
    started = time.monotonic()
    with ProcessPoolExecutor(args.workers) as pool:
        for number, (task, labels) in enumerate(zip(tasks, pool.map(_align, tasks), strict=True), 1):
            found += [(c, rows) for c, rows in zip(task[1], labels, strict=True) if rows is not None]
            left = (time.monotonic() - started) / number * (len(tasks) - number) / 60
            print(f"\rphones: {number * CHUNK}/{len(clips)} clips, {left:.1f} min left ", end="", file=sys.stderr, flush=True)
    if not found:
        raise InputError(f"{args.bank}: no clip could be aligned; the texts must be English")
    args.out.mkdir(parents=True, exist_ok=True)
    starts = np.cumsum([0, *(len(rows) for _, rows in found)])
    replace_file(args.out / "phones.json", lambda p: p.write_text(json.dumps(PHONES)))
    replace_file(args.out / "clips.json", lambda p: p.write_text(json.dumps([[c.engine, c.offset] for c, _ in found])))
    _save(args.out / "starts.npy", starts)
    _save(args.out / "labels.npy", np.concatenate([rows for _, rows in found]))
    print(f"\n{len(found)} of {len(clips)} clips aligned, {starts[-1] * 0.02 / 60:.0f} minutes -> {args.out}")


def _save(path: Path, rows: np.ndarray) -> None:
    def write(part: Path) -> None:
        with open(part, "wb") as file:  # given a name, numpy would add .npy to it
            np.save(file, rows)

    replace_file(path, write)


if __name__ == "__main__":
    raise SystemExit(main())
