"""Speak every line of the scripts in many voices into an utterance bank.

    python -m train.speak --out BANK [--engine hibari …] [--kokoro-voices FOLDER] [--seed 0]

Runs one engine after another (start two commands for two cores), goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from duplex.errors import InputError
from train import cli
from train.corpus.bank import Request, fill
from train.corpus.lines import SYSTEM_ENGINE, SYSTEM_VOICE, script_lines, system_requests, user_requests
from train.corpus.recordings import AsteriskEngine
from train.corpus.sounds import SoundEngine
from train.corpus.speakers import Speaker, of_split
from train.corpus.voices import (
    Engine,
    EngineMissing,
    EspeakEngine,
    FliteEngine,
    HibariEngine,
    KokoroEngine,
    PiperEngine,
)

ENGINES = {"hibari": HibariEngine, "flite": FliteEngine, "espeak": EspeakEngine, "piper": PiperEngine,
           "asterisk": AsteriskEngine, "kokoro": KokoroEngine, "sounds": SoundEngine}
FREE = {"hibari": 400, "flite": 150, "piper": 100, "kokoro": 0, "sounds": 0}


def free_text(rng: random.Random, words: list[str], count: int) -> list[str]:
    """Sentences of random words: the codec hears sounds that the scripts do not use."""
    return [" ".join(rng.choice(words) for _ in range(rng.randint(5, 9))) + "." for _ in range(count)]


def requests_for(engine: Engine, seed: int, lexicon: list[str]) -> list[Request]:
    """The clips that one engine contributes, in a fixed order: the system's first."""
    if isinstance(engine, AsteriskEngine):  # recordings can say what they hold, and nothing else
        return engine.requests()
    systems = script_lines(seed)[1]
    if isinstance(engine, SoundEngine):
        return engine.requests(systems)
    rng = random.Random(f"{seed}:{engine.name}:free")
    speakers = of_split("train", engine.name)
    free = []
    for text in free_text(rng, lexicon, FREE.get(engine.name, 60)):
        speaker = rng.choice(speakers)
        if engine.name == SYSTEM_ENGINE:  # the codec hears the system's voice say more than the scripts do
            speaker = Speaker(engine.name, SYSTEM_VOICE)
        free.append(Request(text, speaker.voice, "free", 1.0, speaker.warp, pitch=speaker.pitch))
    return system_requests(engine.name, systems) + user_requests(engine.name, seed) + free


def lexicon_words() -> list[str]:
    """Common words of the hibari lexicon, for free text."""
    import gzip
    import json

    import hibari

    path = Path(hibari.__file__).parent / "assets" / "lexicon_us_gold.json.gz"
    words = json.loads(gzip.open(path).read())
    return sorted(w for w in words if w.isalpha() and w.islower() and 3 <= len(w) <= 9)


def make_engine(name: str, kokoro_voices: str | None) -> Engine:
    """The engine of a name; raises EngineMissing with its install line."""
    if name == "kokoro":
        return KokoroEngine(kokoro_voices or "voices")
    return ENGINES[name]()


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("speak", __doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engine", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--kokoro-voices", help="folder with the *.bin voices of the npm package kokoro-js")
    parser.add_argument("--seed", type=int, default=0)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Fills the bank with one engine after another; InputError when none can run."""
    spoken = 0
    for name in args.engine:
        try:
            engine = make_engine(name, args.kokoro_voices)
        except EngineMissing as missing:
            print(f"{name}: skipped, {missing}", file=sys.stderr)
            continue
        wanted = requests_for(engine, args.seed, lexicon_words())
        started, first = time.monotonic(), None
        for done in fill(args.out, engine, wanted):
            first = done if first is None else first
            if done % 100 == 0 or done == len(wanted):
                rate = (done - first + 1) / (time.monotonic() - started)
                left = (len(wanted) - done) / rate / 60
                print(f"\r{name}: {done}/{len(wanted)} clips, {left:.1f} min left ", end="", flush=True)
        print(f"\r{name}: {len(wanted)} clips" + " " * 30)
        spoken += len(wanted)
    if not spoken:
        raise InputError("no engine could run; install one of those named above")


if __name__ == "__main__":
    raise SystemExit(main())
