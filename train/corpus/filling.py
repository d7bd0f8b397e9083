"""Making a bank: every engine speaks its share, in processes of their own; what cannot run is named and left out."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from duplex.errors import InputError
from train.corpus.align import Aligner, alignable, annotate
from train.corpus.bank import Request, fill
from train.corpus.commands import EspeakEngine, FliteEngine
from train.corpus.exchange import split_key
from train.corpus.lines import SYSTEM_ENGINE, SYSTEM_VOICE, script_lines, system_requests, user_requests
from train.corpus.recordings import AsteriskEngine
from train.corpus.sounds import SoundEngine
from train.corpus.speakers import Speaker, of_split
from train.corpus.utterance import Engine, EngineMissing
from train.corpus.voices import HibariEngine, KokoroEngine, PiperEngine

# The slowest first: with few workers they set the end.
ENGINES = {"hibari": HibariEngine, "kokoro": KokoroEngine, "flite": FliteEngine, "espeak": EspeakEngine, "piper": PiperEngine,
           "asterisk": AsteriskEngine, "sounds": SoundEngine}
FREE = {"hibari": 400, "flite": 150, "piper": 100, "kokoro": 0, "sounds": 0}
OWN_SPEEDS, OWN_LINES = (0.94, 1.04, 1.12), 2600


@dataclass(frozen=True)
class Voices:
    """Whose voices to take, and how much they say."""

    engines: tuple[str, ...] = tuple(ENGINES)
    kokoro_voices: str | None = None
    seed: int = 0
    lines: float = 1.0


def free_text(rng: random.Random, words: list[str], count: int) -> list[str]:
    """Sentences of random words: the codec hears sounds that the scripts do not use."""
    return [" ".join(rng.choice(words) for _ in range(rng.randint(5, 9))) + "." for _ in range(count)]


def lexicon_words() -> list[str]:
    """Common words of the hibari lexicon, for free text; none where hibari is not installed."""
    import gzip
    import importlib.util

    found = importlib.util.find_spec("hibari")
    if found is None or not found.submodule_search_locations:
        return []
    path = Path(found.submodule_search_locations[0]) / "assets" / "lexicon_us_gold.json.gz"
    words = json.loads(gzip.open(path).read())
    return sorted(w for w in words if w.isalpha() and w.islower() and 3 <= len(w) <= 9)


def requests_for(engine: Engine, seed: int, lines: float = 1.0) -> list[Request]:
    """The clips that one engine contributes, in a fixed order: the system's first."""
    if isinstance(engine, AsteriskEngine):  # recordings can say what they hold, and nothing else
        return engine.requests()
    users, systems = script_lines(seed)
    if isinstance(engine, SoundEngine):
        return engine.requests(systems)
    rng = random.Random(f"{seed}:{engine.name}:free")
    speakers, lexicon = of_split("train", engine.name), lexicon_words()
    free = []
    for text in free_text(rng, lexicon, round(lines * FREE.get(engine.name, 60))) if lexicon else []:
        speaker = rng.choice(speakers)
        if engine.name == SYSTEM_ENGINE:  # the codec hears the system's voice say more than the scripts do
            speaker = Speaker(engine.name, SYSTEM_VOICE)
        free.append(Request(text, speaker.voice, "free", 1.0, speaker.warp, pitch=speaker.pitch))
    if engine.name == SYSTEM_ENGINE:
        free += more_of_the_system(rng, users, systems, lines)
    return system_requests(engine.name, systems) + user_requests(engine.name, seed, lines) + free


def more_of_the_system(rng: random.Random, users: list[str], systems: list[str], lines: float) -> list[Request]:
    """For the codec alone: the system's voice says its lines at further speeds, and a share of what users say.

    Its two clips of each line are learnt by heart: what the codes tell of a spectrogram was told 1.7 times as badly of others.
    """
    own = [(name, speed) for name in systems for speed in OWN_SPEEDS if rng.random() < lines]
    own += [(name, round(rng.uniform(0.93, 1.12), 2)) for name in rng.sample(users, min(len(users), round(lines * OWN_LINES)))]
    return [Request(name, SYSTEM_VOICE, "free", speed, seed=rng.randrange(1000)) for name, speed in own if not split_key(name)[1]]


def make_engine(name: str, kokoro_voices: str | None) -> Engine:
    """The engine of a name; raises EngineMissing with its install line."""
    if name == "kokoro":
        return KokoroEngine(kokoro_voices or "voices")
    return ENGINES[name]()


def _speak(folder: Path, name: str, voices: Voices) -> int:
    """One engine's share; returns how many clips it has in the bank now."""
    engine = make_engine(name, voices.kokoro_voices)
    wanted = requests_for(engine, voices.seed, voices.lines)
    _note(folder, name, f"0 {len(wanted)}")
    for done in fill(folder, engine, wanted):
        if done % 25 == 0:
            _note(folder, name, f"{done} {len(wanted)}")
    _note(folder, name, f"{len(wanted)} {len(wanted)}")
    return len(wanted)


def _note(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f".{name}.progress").write_text(text)


def fill_bank(folder: Path, voices: Voices, workers: int = 1) -> dict[str, int]:
    """Engine -> clips. Goes on where it was stopped; names engines that are missing; InputError when none can run."""
    able = []
    for name in voices.engines:
        try:
            make_engine(name, voices.kokoro_voices)
            able.append(name)
        except EngineMissing as missing:
            print(f"{name}: skipped, {missing}", file=sys.stderr)
    if not set(able) - {"sounds"}:
        raise InputError("no engine could run; install one of those named above")
    started, first = time.monotonic(), None
    with ProcessPoolExecutor(max(1, workers)) as pool:
        jobs = {pool.submit(_speak, folder, name, voices): name for name in able}
        pending = set(jobs)
        while pending:
            _, pending = wait(pending, timeout=2.0, return_when=FIRST_COMPLETED)
            notes = {name: _progress(folder, name) for name in able}
            done, total = (sum(column) for column in zip(*notes.values(), strict=True))
            if first is None and total:
                first, started = done, time.monotonic()
            rate = (done - (first or 0)) / max(1e-3, time.monotonic() - started)
            left = f"{(total - done) / rate / 60:.1f} min left" if rate > 0 else "starting"
            print(f"\rbank: {done}/{total} clips, {left} " + " ".join(f"{n} {d}/{t}" for n, (d, t) in notes.items() if t > d),
                  end=" ", flush=True)
        counts = {name: job.result() for job, name in jobs.items()}
    for name in able:
        (folder / f".{name}.progress").unlink(missing_ok=True)
    print("\nbank: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    return counts


def _progress(folder: Path, name: str) -> tuple[int, int]:
    try:
        done, total = (folder / f".{name}.progress").read_text().split()
        return int(done), int(total)
    except (OSError, ValueError):  # not begun, or just being written
        return 0, 0


def complete(folder: Path, engines: Iterable[str]) -> None:
    """Word times by forced alignment for clips of these engines that have none; without the aligner they stay without."""
    indexes = [path for name in engines if (path := folder / f"{name}.jsonl").exists()]
    lacking = [index.stem for index in indexes
               if any(not e["words"] and e["role"] != "free" and alignable(e["text"]) for e in map(json.loads, open(index)))]
    if not lacking:
        return
    try:
        aligner = Aligner()
    except InputError as missing:
        print(f"word times of some clips of {', '.join(lacking)} are missing: {missing}", file=sys.stderr)
        return
    for engine in lacking:
        annotate(folder, engine, aligner)
    print()
