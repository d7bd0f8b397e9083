"""A bank of clips as codes: dialogues without end, composed in token space.

    python -m train.coded --bank BANK --codec CODEC --out CODED [--part 0/2]

Encoding whole dialogues spends most of its time on silence and gives each clip few chances to meet another. The codec is
causal with a short memory, so a clip that is encoded once, between silences, can be laid into a background of encoded
silence or noise. The user's clips are encoded with gains of their own, every speaker at one of the noise levels (another one
in each pass); the system's clips clean, in their first pass frame-aligned. Held-out speakers are left out. Validation stays
on encoded sound (train.prepare).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from duplex.codec import MimiCodec
from duplex.errors import InputError
from duplex.text import TextTokenizer, Word, words_to_row
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS, SAMPLE_RATE, seconds_to_frame, seconds_to_frames
from train import cli
from train.corpus.bank import Bank, Clip
from train.corpus.casting import anybody
from train.corpus.dialogue import Composer, Plan
from train.corpus.exchange import split_key
from train.corpus.speakers import HELD_OUT
from train.corpus.style import gain_range
from train.corpus.voices import resample_mono
from train.files import replace_file, trained_codec
from train.prepare import part_of
from train.shards import fingerprint
from train.synthesize import DialogueRecipe

LEVELS_DB = (None, -66.0, -52.0)  # noise in the user's channel; None: digital silence
GAP = SAMPLE_RATE  # silence between the clips of a stream
TRAIL = 11  # frames kept after a clip, the next being 12.5 away: what silence sounds like to a codec that still remembers speech
STREAM = 40 * SAMPLE_RATE
START_UP = 13  # frames: the codec's first second of silence is not what silence sounds like to it later
HEARD_DELAY = 0.48
SPEEDS = (0.86, 0.92, 1.08, 1.16)


def noise(rng: np.random.Generator, level: int, length: int) -> np.ndarray:
    """float32 [length] of a level's noise."""
    db = LEVELS_DB[level]
    return np.zeros(length, np.float32) if db is None else rng.standard_normal(length).astype(np.float32) * 10 ** (db / 20)


def level_of(speaker: str, turn: int) -> int:
    """The noise level at which a speaker's clips are encoded in a pass; sounds, which have no speaker, belong to any."""
    return (hashlib.sha256(speaker.encode()).digest()[0] + turn) % len(LEVELS_DB)


@dataclass(frozen=True)
class Job:
    """A stretch of sound that is encoded in one go: clips of one role, with one level's noise, at one speed."""

    role: str
    level: int
    clips: list[Clip]
    speed: float = 1.0
    aligned: bool = False
    """Every clip begins with a frame; otherwise anywhere in one."""


def streams(bank: Bank, seed: int, passes: int = 1, perturb: float = 0.0, system_passes: int = 1) -> list[Job]:
    """What is to be encoded, in a fixed random order.

    ``perturb`` is the share of the user's speakers whose clips are encoded once more at one of `SPEEDS`, as further speakers:
    speed perturbation (Ko et al., Interspeech 2015), which moves pitch, formants and tempo together. The system's clips are
    encoded ``system_passes`` times, first at the beginning of a frame, then anywhere in one: a clip that always has the
    same codes is learnt by heart, and the voice then has no sounds for what it never said.
    """
    rng = np.random.default_rng(seed)
    jobs: list[Job] = []
    users = [c for c in bank.clips if c.role == "user" and c.speaker not in HELD_OUT]
    for role, levels in (("system", (0,)), ("user", range(len(LEVELS_DB)))):
        for level in levels:
            if role == "system":
                clips = [c for c in bank.clips if c.role == role]
            else:
                clips = [c for c in users if anybody(c.text) or level in (level_of(c.speaker, n) for n in range(passes))]
            jobs += _filled(rng, role, level, clips, aligned=role == "system")
    for _ in range(system_passes - 1):
        jobs += _filled(rng, "system", 0, [c for c in bank.clips if c.role == "system"])
    names = sorted({c.speaker for c in users})
    chosen = rng.permutation(names)[: round(perturb * len(names))]
    speed_of = {name: SPEEDS[n % len(SPEEDS)] for n, name in enumerate(chosen)}
    for level, speed in itertools.product(range(len(LEVELS_DB)), SPEEDS) if speed_of else ():
        clips = [c for c in users if speed_of.get(c.speaker) == speed and level_of(c.speaker, 1) == level
                 and not anybody(c.text)]
        jobs += _filled(rng, "user", level, clips, speed)
    order = rng.permutation(len(jobs))
    # The system's few streams first: nothing can be composed without them.
    return sorted((jobs[i] for i in order), key=lambda job: job.role != "system")


def _filled(rng: np.random.Generator, role: str, level: int, clips: list[Clip], speed: float = 1.0,
            aligned: bool = False) -> list[Job]:
    """The clips in random order, cut into stretches of about `STREAM`."""
    jobs, current, filled = [], [], 0
    for i in rng.permutation(len(clips)):
        current.append(clips[i])
        filled += round(clips[i].samples / speed) + GAP
        if filled > STREAM:
            jobs.append(Job(role, level, current, speed, aligned))
            current, filled = [], 0
    return [*jobs, Job(role, level, current, speed, aligned)] if current else jobs


def encode_stream(bank: Bank, codec: MimiCodec, job: Job, seed: tuple) -> tuple[np.ndarray, list]:
    """Codes int16 [K, T] of one stream and, per clip, [engine, offset, first frame, frames]."""
    rng = np.random.default_rng(seed)
    parts, places, at = [np.zeros(GAP, np.float32)], [], GAP
    for clip in job.clips:
        samples = bank.speech(clip).samples
        if job.speed != 1:
            samples = resample_mono(samples, round(SAMPLE_RATE * job.speed), SAMPLE_RATE)
        if job.role == "user":
            samples = samples * 10 ** (rng.uniform(*gain_range(split_key(clip.text)[1])) / 20)
        pad = -at % FRAME_SAMPLES if job.aligned else int(rng.integers(0, FRAME_SAMPLES))
        first = (at + pad) // FRAME_SAMPLES
        frames = -(-(at + pad + len(samples)) // FRAME_SAMPLES) - first + TRAIL
        places.append([clip.engine, clip.offset, first, frames])
        parts += [np.zeros(pad, np.float32), samples, np.zeros(GAP, np.float32)]
        at += pad + len(samples) + GAP
    sound = np.concatenate(parts)
    sound = np.pad(sound, (0, -len(sound) % FRAME_SAMPLES + FRAME_SAMPLES * TRAIL))
    sound = np.clip(sound + noise(rng, job.level, len(sound)), -1, 1)
    return codec.encode(torch.from_numpy(sound)[None, None])[0].numpy().astype(np.int16), places


def write_stream(path: Path, bank: Bank, codec: MimiCodec, job: Job, seed: tuple) -> None:
    """Encodes one stream into a file of its codes and of what lies where in them."""
    codes, places = encode_stream(bank, codec, job, seed)
    # Named apart from the clip itself: at another speed it has other times and another speaker.
    mark = "" if job.speed == 1 else f"~{job.speed:g}"
    timing = [[length / job.speed, [[w.text, w.start / job.speed, w.end / job.speed] for w in words]]
              for length, words in map(bank.timing, job.clips)]
    labels = json.dumps({"role": job.role, "level": job.level, "timing": timing,
                         "places": [[engine + mark, *place] for engine, *place in places],
                         "clips": [[c.text, c.speaker + mark] for c in job.clips]})
    _save(path, codes=codes, labels=np.frombuffer(labels.encode(), np.uint8))


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("coded", __doc__)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--codebooks", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="I/N: do every N-th stream only (N commands share the work)")
    parser.add_argument("--passes", type=int, default=1, choices=range(1, len(LEVELS_DB) + 1),
                        help="noise levels at which each user clip is encoded")
    parser.add_argument("--system-passes", type=int, default=1, choices=range(1, 10), metavar="N",
                        help="how often each clip of the system is encoded, each time at another place in its frame")
    parser.add_argument("--perturb", type=float, default=0.0, metavar="SHARE",
                        help="share of the user's speakers who come once more at another speed, as further speakers")
    parser.add_argument("--seed", type=int, default=0)
    cli.add_threads(parser)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Encodes the streams that are not there yet; every file appears whole."""
    codec = trained_codec(args.codec, args.codebooks)
    bank = Bank(args.bank)
    index, count = part_of(args.part)
    if not 0 <= args.perturb <= 1:
        raise InputError(f"--perturb {args.perturb:g}: a share lies between 0 and 1")
    args.out.mkdir(parents=True, exist_ok=True)
    metadata = {"codec": fingerprint(args.codec / "mimi.safetensors"), "codebooks": str(args.codebooks),
                "cardinality": str(codec.cardinality)}
    if index == 0:
        (args.out / "meta.json").write_text(json.dumps(metadata))
        for level in range(len(LEVELS_DB)):
            sound = noise(np.random.default_rng((args.seed, level)), level, STREAM)
            codes = codec.encode(torch.from_numpy(sound)[None, None])[0].numpy().astype(np.int16)
            _save(args.out / f"background-{level}.npz", codes=codes)
    every = streams(bank, args.seed, args.passes, args.perturb, args.system_passes)
    jobs = [(n, job) for n, job in enumerate(every) if n % count == index]
    started = time.monotonic()
    for done, (number, job) in enumerate(jobs, 1):
        path = args.out / f"stream-{number:05d}.npz"
        if not path.exists():
            write_stream(path, bank, codec, job, (args.seed, 1, number))
        left = (time.monotonic() - started) / done * (len(jobs) - done) / 60
        print(f"\rstream {done}/{len(jobs)}, {left:.1f} min left ", end="", flush=True)
    print()


def _save(path: Path, **arrays: np.ndarray) -> None:
    def write(part: Path) -> None:
        with open(part, "wb") as file:  # given a name, numpy would add .npz to it
            np.savez(file, **arrays)

    replace_file(path, write)


@dataclass(frozen=True)
class CodedClip(Clip):
    """A clip of the bank with one of its encodings; ``level`` and ``stream`` say which, ``first`` and ``frames`` where."""

    level: int = 0
    stream: int = 0
    first: int = 0
    frames: int = 0


class CodedBank:
    """All encodings of a folder. ``at_level`` gives the library of one dialogue."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        paths = sorted(self.folder.glob("stream-*.npz"))
        if not paths:
            raise InputError(f"{folder}: no encoded clips; make them with python -m train.coded --out {folder}")
        self.metadata: dict[str, str] = json.loads((self.folder / "meta.json").read_text())
        self.backgrounds = [np.load(self.folder / f"background-{n}.npz")["codes"] for n in range(len(LEVELS_DB))]
        self.streams: list[np.ndarray] = []
        self._timing: dict[tuple[str, int], tuple[float, tuple[Word, ...]]] = {}
        found: list[CodedClip] = []
        for number, path in enumerate(paths):
            with np.load(path) as file:
                self.streams.append(file["codes"])
                labels = json.loads(file["labels"].tobytes())
            for (engine, offset, first, frames), (length, words), (text, speaker) in zip(
                    labels["places"], labels["timing"], labels["clips"], strict=True):
                self._timing[engine, offset] = (length, tuple(Word(*w) for w in words))
                role, level = labels["role"], labels["level"]
                found.append(CodedClip(text, speaker, role, offset, 0, (), engine, level, number, first, frames))
        self._levels = [CodedLibrary(self, [c for c in found if c.level == n or c.role == "system"])
                        for n in range(len(LEVELS_DB))]

    def at_level(self, level: int) -> CodedLibrary:
        """The clips that were encoded with a level's noise, and the system's."""
        return self._levels[level]

    def timing(self, clip: Clip) -> tuple[float, tuple[Word, ...]]:
        return self._timing[clip.engine, clip.offset]

    def codes(self, clip: CodedClip) -> np.ndarray:
        """int16 [K, frames]."""
        return self.streams[clip.stream][:, clip.first : clip.first + clip.frames]

    def render(self, plan: Plan, level: int, frames: int, tokenizer: TextTokenizer, rng: np.random.Generator) -> np.ndarray:
        """A plan as codes int64 [1 + 2K + 1, frames]; the last row is what the user said (see `heard_row`)."""
        text = words_to_row(plan.system_words, frames, tokenizer)
        tracks = {"system": self.background(0, frames, rng), "user": self.background(level, frames, rng)}
        for placement in plan.placements:
            codes, at = self.codes(placement.clip), seconds_to_frame(placement.start)
            if placement.stop is not None:
                codes = codes[:, : max(1, seconds_to_frame(placement.stop))]
            if placement.hole is not None:
                cut = min(codes.shape[1], seconds_to_frame(placement.hole[0]))
                # What follows speech in a stream is the codec's memory of it. A pause without that would be told from the end of
                # a turn by its edge, and by nothing that was said: so it begins as the clip's own end does.
                silence = self.background(level, seconds_to_frames(placement.hole[1]), rng)
                silence[:, :TRAIL] = codes[:, -TRAIL:][:, : silence.shape[1]]
                codes = np.concatenate([codes[:, :cut], silence, codes[:, cut:]], 1)
            part = codes[:, : max(0, frames - at)]
            tracks[placement.speaker][:, at : at + part.shape[1]] = part
        heard = heard_row(plan.user_words, frames, tokenizer)
        return np.concatenate([text[None], tracks["system"], tracks["user"], heard[None]]).astype(np.int64)

    def background(self, level: int, frames: int, rng: np.random.Generator) -> np.ndarray:
        """A random stretch of a level's background [K, frames], repeated where it is too short; past its first second."""
        codes = self.backgrounds[level][:, START_UP:]
        at = int(rng.integers(0, codes.shape[1]))
        return codes[:, (at + np.arange(frames)) % codes.shape[1]].copy()


class CodedLibrary:
    """What a `Composer` needs, over the encodings of one noise level."""

    def __init__(self, bank: CodedBank, clips: list[CodedClip]):
        self.bank, self.clips = bank, clips
        self._by_text: dict[tuple[str, str], list[CodedClip]] = defaultdict(list)
        for clip in clips:
            self._by_text[clip.role, clip.text].append(clip)

    def find(self, role: str, text: str) -> list[CodedClip]:
        return self._by_text.get((role, text), [])

    def timing(self, clip: Clip) -> tuple[float, tuple[Word, ...]]:
        return self.bank.timing(clip)


def heard_row(words: list[Word], frames: int, tokenizer: TextTokenizer) -> np.ndarray:
    """The user's words as a text row int64 [frames], `HEARD_DELAY` later than they begin: by then each has been heard.

    A target for training alone: a model that must name what it hears learns to listen sooner than from answers.
    """
    later = [Word(w.text.strip(",.?!").lower(), w.start + HEARD_DELAY, w.end + HEARD_DELAY) for w in words]
    return words_to_row([w for w in later if w.text and w.end < frames * FRAME_SECONDS], frames, tokenizer)


class ComposedSource:
    """Endless training dialogues: sample number p is a fresh plan, rendered in codes, from which a crop is taken.

    A sample depends on (seed, p), the bank and the recipe alone, so a resumed run sees what it would have seen.
    """

    def __init__(self, bank: CodedBank, tokenizer: TextTokenizer, recipe: DialogueRecipe, frames: int, seed: int,
                 heard: bool = False):
        self.bank, self.tokenizer, self.frames, self.seed, self.heard = bank, tokenizer, frames, seed, heard
        self.seconds = recipe.seconds
        # In token space noise and gain are those that the clips were encoded with, and there is no echo.
        quiet = replace(recipe.phenomena, quiet_noise=0.0, noise=0.0, echo=0.0, reverb=0.0, gain=0.0)
        made = {n: Composer(bank.at_level(n), quiet, "train", recipe.weights) for n in range(len(LEVELS_DB))}
        self.composers = {n: c for n, c in made.items() if c.casting.menus}  # a small bank has no speaker at some levels
        if not self.composers:
            raise InputError(f"{bank.folder}: no speaker has a whole exchange; speak and encode more clips (train.speak)")
        self.metadata = bank.metadata | {"vocabulary": str(tokenizer.vocab_size)}

    def sample(self, position: int) -> torch.Tensor:
        """int64 [K, frames]; with ``heard`` one row more (see `heard_row`)."""
        rng = np.random.default_rng((self.seed, 2, position))
        level = list(self.composers)[int(rng.integers(0, len(self.composers)))]
        plan = self.composers[level].plan(f"{self.seed}:composed:{position}", self.seconds)
        total = seconds_to_frame(self.seconds)
        codes = self.bank.render(plan, level, total, self.tokenizer, rng)
        codes = codes if self.heard else codes[:-1]
        at = int(rng.integers(0, max(0, total - self.frames) + 1))
        return torch.from_numpy(codes[:, at : at + self.frames])


if __name__ == "__main__":
    raise SystemExit(main())
