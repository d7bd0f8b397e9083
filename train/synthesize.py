"""Synthesise two-channel dialogues with exact labels from an utterance bank.

    python -m train.synthesize train/recipes/dialogues-tiny.toml --bank BANK --out DIR --hours 5 [--workers 2]

Each dialogue is DIR/{split}/{number}.wav (left system, right user), {number}.json (word times of both speakers, in the
moshi-finetune layout) and {number}.events.jsonl. A dialogue depends on the recipe, its number and the bank alone, files
appear whole, and finished ones are kept, so a stopped run goes on and equal seeds give equal bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from duplex.overlay import load_toml
from duplex.units import SAMPLE_RATE
from train import cli
from train.corpus.bank import Bank
from train.corpus.dialogue import Composer, Phenomena

SYSTEM_LABEL, USER_LABEL = "SPEAKER_MAIN", "SPEAKER_USER"


@dataclass(frozen=True)
class DialogueRecipe:
    """What to synthesise."""

    seed: int = 0
    seconds: float = 48.0
    test_share: float = 0.03
    phenomena: Phenomena = field(default_factory=Phenomena)


def write_dialogue(composer: Composer, recipe: DialogueRecipe, folder: Path, number: int) -> None:
    """Write one dialogue's three files; the wav comes last and marks it complete."""
    stem = folder / f"{number:06d}"
    if stem.with_suffix(".wav").exists():
        return
    dialogue = composer.compose(f"{recipe.seed}:{composer.split}:{number}", recipe.seconds)
    words = [[w.text, [w.start, w.end], label] for label, speaker in
             ((SYSTEM_LABEL, dialogue.system_words), (USER_LABEL, dialogue.user_words)) for w in speaker]
    _write(stem.with_suffix(".json"), json.dumps({"alignments": words, "turns": dialogue.texts}).encode())
    _write(stem.with_suffix(".events.jsonl"), "".join(json.dumps(e) + "\n" for e in dialogue.events).encode())
    part = stem.with_suffix(".part.wav")
    stereo = np.round(np.stack([dialogue.system, dialogue.user], 1) * 32767).astype(np.int16)
    soundfile.write(part, stereo, SAMPLE_RATE, subtype="PCM_16")
    os.replace(part, stem.with_suffix(".wav"))


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


_COMPOSERS: dict[str, Composer] = {}


def _job(bank: Path, recipe: DialogueRecipe, out: Path, split: str, number: int) -> None:
    if split not in _COMPOSERS:
        _COMPOSERS[split] = Composer(Bank(bank), recipe.phenomena, split)
    write_dialogue(_COMPOSERS[split], recipe, out / split, number)


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("synthesize", __doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Writes all dialogues that are not there yet."""
    recipe = load_toml(DialogueRecipe, args.recipe)
    Bank(args.bank)
    total = max(1, round(args.hours * 3600 / recipe.seconds))
    tests = max(1, round(total * recipe.test_share))
    jobs = [("test", n) for n in range(tests)] + [("train", n) for n in range(total - tests)]
    for split in ("train", "test"):
        (args.out / split).mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with ProcessPoolExecutor(args.workers) as pool:
        futures = [pool.submit(_job, args.bank, recipe, args.out, split, n) for split, n in jobs]
        for done, future in enumerate(futures, 1):
            future.result()
            if done % 20 == 0 or done == total:
                left = (time.monotonic() - started) / done * (total - done) / 60
                print(f"\r{done}/{total} dialogues, {left:.1f} min left ", end="", flush=True)
    print(f"\r{total} dialogues of {recipe.seconds:g} s in {args.out}" + " " * 20)


if __name__ == "__main__":
    raise SystemExit(main())
