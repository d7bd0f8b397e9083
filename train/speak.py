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
from train.corpus import scripts
from train.corpus.bank import Request, fill
from train.corpus.recordings import AsteriskEngine
from train.corpus.voices import (
    Engine,
    EngineMissing,
    EspeakEngine,
    FliteEngine,
    HibariEngine,
    KokoroEngine,
    PiperEngine,
)

SYSTEM_ENGINE = "hibari"
ENGINES = {"hibari": HibariEngine, "flite": FliteEngine, "espeak": EspeakEngine, "piper": PiperEngine,
           "asterisk": AsteriskEngine, "kokoro": KokoroEngine}
# Renditions of each user line by engine, and how far its vocal tract is stretched to make new speakers.
SHARE = {"hibari": 3, "flite": 2, "espeak": 1, "piper": 1, "kokoro": 1}
WARPS = {"hibari": (0.76, 0.82, 0.88, 1.08, 1.15), "piper": (0.92, 1.0, 1.1, 1.2), "flite": (0.9, 1.0, 1.12),
         "espeak": (1.0,), "kokoro": (1.0,)}


def script_lines(seed: int, draws: int = 40_000) -> tuple[list[str], list[str]]:
    """All user lines and all system lines that the scripts can produce (sorted, by exhaustive sampling)."""
    rng = random.Random(seed)
    users, systems = set(), set()
    for split in ("train", "test"):
        pick = scripts.Picker(rng, split)
        for exchange in scripts.exchanges(rng, split, draws):
            users.add(exchange.user)
            systems.add(exchange.system)
        for _ in range(60):
            for exchange in (scripts.goodbye(pick), scripts.stop(pick)):
                users.add(exchange.user)
                systems.add(exchange.system)
    return sorted(users | set(scripts.BACKCHANNELS)), sorted(systems)


def free_text(rng: random.Random, words: list[str], count: int) -> list[str]:
    """Sentences of random words: the codec hears sounds that the scripts do not use."""
    return [" ".join(rng.choice(words) for _ in range(rng.randint(5, 9))) + "." for _ in range(count)]


def requests_for(engine: Engine, seed: int, lexicon: list[str], share: int | None = None) -> list[Request]:
    """The clips that one engine contributes, in a fixed order."""
    rng = random.Random(f"{seed}:{engine.name}")
    users, systems = script_lines(seed)
    wanted: list[Request] = []
    if engine.name == SYSTEM_ENGINE:
        wanted += [Request(text, "heart", "system", speed, seed=i) for text in systems for i, speed in
                   enumerate((1.0, 1.08))]
        wanted += [Request(text, "heart", "free", 1.0) for text in free_text(rng, lexicon, 400)]
    voices = engine.voices()
    for text in users:
        for _ in range(share or SHARE.get(engine.name, 1)):
            wanted.append(Request(text, rng.choice(voices), "user", rng.uniform(0.88, 1.15),
                                  rng.choice(WARPS.get(engine.name, (1.0,))), rng.randrange(1000)))
    free = free_text(rng, lexicon, {"kokoro": 60, "piper": 100, "flite": 150}.get(engine.name, 60))
    wanted += [Request(t, rng.choice(voices), "free", 1.0, rng.choice(WARPS.get(engine.name, (1.0,)))) for t in free]
    head, tail = [r for r in wanted if r.role == "system"], [r for r in wanted if r.role != "system"]
    rng.shuffle(tail)
    return head + tail


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
        own = isinstance(engine, AsteriskEngine)  # recordings can say what they hold, and nothing else
        wanted = engine.requests() if own else requests_for(engine, args.seed, lexicon_words())
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
