"""Synthesise two-channel dialogues with exact labels.

    python -m train.synthesize train/recipes/dialogues-tiny.toml --hours 20 --out DIR [--bank BANK] [--workers 2]

Without --bank the recipe's voices first speak the lines of the scripts into DIR/bank (see train.speak). Each dialogue is
DIR/{split}/{number}.wav or .flac (left system, right user), {number}.json (word times of both speakers, in the
moshi-finetune layout) and {number}.events.jsonl. A dialogue depends on the recipe, its number and the bank alone, files
appear whole, and finished ones are kept, so a stopped run goes on and equal seeds give equal bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from duplex.errors import ConfigError
from duplex.overlay import load_toml, unknown_key
from duplex.units import SAMPLE_RATE
from train import cli
from train.corpus.bank import Bank
from train.corpus.dialogue import Composer, Phenomena
from train.corpus.exchange import REGISTRY
from train.corpus.filling import ENGINES, Voices, complete, fill_bank
from train.files import replace_file
from train.own.labels import SYSTEM_LABEL, USER_LABEL

FORMATS = ("wav", "flac")


@dataclass(frozen=True)
class DialogueRecipe:
    """What to synthesise."""

    seed: int = 0
    seconds: float = 48.0
    test_share: float = 0.03
    format: str = "wav"
    """"wav" or "flac": the same samples."""
    engines: tuple[str, ...] = tuple(ENGINES)
    """Whose voices speak when no bank is given; those that are not installed are named and left out."""
    kokoro_voices: str = ""
    """Folder with the voices of the npm package kokoro-js; without it there are no French and Spanish answers."""
    lines: float = 1.0
    """Share of each speaker's lines that are spoken: less makes a bank sooner, with fewer speakers a line."""
    phenomena: Phenomena = field(default_factory=Phenomena)
    weights: Mapping[str, float] = field(default_factory=dict)
    """How often a scenario is drawn, by its name; the others keep their own weight."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"format {self.format!r}: use one of {', '.join(FORMATS)}")
        unknown = sorted(set(self.engines) - set(ENGINES))
        if unknown:
            raise ConfigError(f"engines: no engine {unknown[0]!r}; use some of {', '.join(ENGINES)}")
        for name, weight in self.weights.items():
            if name not in REGISTRY.scenarios:
                raise unknown_key(name, REGISTRY.scenarios, "weights")
            if not 0 < weight < math.inf:
                raise ConfigError(f"weights: {name} = {weight:g}; use a number above 0")


def write_dialogue(composer: Composer, recipe: DialogueRecipe, folder: Path, number: int) -> None:
    """Write one dialogue's three files; the sound comes last and marks it complete."""
    stem = folder / f"{number:06d}"
    sound = stem.with_suffix(f".{recipe.format}")
    if sound.exists():
        return
    dialogue = composer.compose(f"{recipe.seed}:{composer.split}:{number}", recipe.seconds)
    words = [[w.text, [w.start, w.end], label] for label, speaker in
             ((SYSTEM_LABEL, dialogue.system_words), (USER_LABEL, dialogue.user_words)) for w in speaker]
    labels = json.dumps({"alignments": words, "turns": dialogue.texts})
    replace_file(stem.with_suffix(".json"), lambda part: part.write_text(labels))
    events = "".join(json.dumps(e) + "\n" for e in dialogue.events)
    replace_file(stem.with_suffix(".events.jsonl"), lambda part: part.write_text(events))
    stereo = np.round(np.stack([dialogue.system, dialogue.user], 1) * 32767).astype(np.int16)
    replace_file(sound, lambda part: soundfile.write(part, stereo, SAMPLE_RATE, subtype="PCM_16", format=recipe.format.upper()))


_COMPOSERS: dict[str, Composer] = {}


def _job(bank: Path, recipe: DialogueRecipe, out: Path, split: str, number: int) -> None:
    if split not in _COMPOSERS:
        _COMPOSERS[split] = Composer(Bank(bank), recipe.phenomena, split, recipe.weights)
    write_dialogue(_COMPOSERS[split], recipe, out / split, number)


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("synthesize", __doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bank", type=Path, help="utterance bank; without it one is made in OUT/bank")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Writes all dialogues that are not there yet."""
    recipe = load_toml(DialogueRecipe, args.recipe)
    if args.bank is None:
        voices = Voices(recipe.engines, recipe.kokoro_voices or None, recipe.seed, recipe.lines)
        bank = args.out / "bank"
        fill_bank(bank, voices, args.workers)
        complete(bank, recipe.engines)
    else:
        bank = args.bank
        Bank(bank)
    total = max(1, round(args.hours * 3600 / recipe.seconds))
    tests = max(1, round(total * recipe.test_share))
    jobs = [("test", n) for n in range(tests)] + [("train", n) for n in range(total - tests)]
    jobs = [(s, n) for s, n in jobs if not (args.out / s / f"{n:06d}.{recipe.format}").exists()]
    for split in ("train", "test"):
        (args.out / split).mkdir(parents=True, exist_ok=True)
    started, kept = time.monotonic(), total - len(jobs)
    with ProcessPoolExecutor(max(1, args.workers)) as pool:
        futures = [pool.submit(_job, bank, recipe, args.out, split, n) for split, n in jobs]
        for done, future in enumerate(futures, 1):
            future.result()
            if done % 20 == 0 or done == len(jobs):
                left = (time.monotonic() - started) / done * (len(jobs) - done) / 60
                print(f"\r{bar(kept + done, total)} {kept + done}/{total} dialogues, {left:.1f} min left ", end="", flush=True)
    print(f"\r{total} dialogues of {recipe.seconds:g} s in {args.out}" + " " * 40)


def bar(done: int, total: int, width: int = 24) -> str:
    """A progress bar."""
    filled = width * done // max(1, total)
    return "[" + "#" * filled + "." * (width - filled) + "]"


if __name__ == "__main__":
    raise SystemExit(main())
