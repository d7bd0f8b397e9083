"""Encode two-channel dialogues into training shards.

    python -m train.prepare DIALOGUES --codec FOLDER --tokenizer FILE.model --codebooks K --out SHARDS

DIALOGUES holds NAME.wav (left system, right user) with NAME.json (word times, the moshi-finetune layout; words labelled
SPEAKER_MAIN are the system's). Unusable files are skipped and listed in SHARDS/rejected.jsonl; more than 5 % of them makes
the exit status non-zero. Finished shards are kept, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from duplex.audio import read_audio
from duplex.codec import MimiCodec
from duplex.errors import InputError
from duplex.text import Tokenizer, Word, words_to_row
from duplex.units import FRAME_SAMPLES
from train import cli
from train.files import trained_codec
from train.shards import fingerprint, write_shard
from train.synthesize import SYSTEM_LABEL


def read_words(path: Path) -> list[Word]:
    """The system's words of an alignment file; InputError when the file is missing, malformed or out of order."""
    try:
        entries = json.loads(path.read_text())["alignments"]
        words = [Word(text, float(start), float(end)) for text, (start, end), label in entries if label == SYSTEM_LABEL]
    except FileNotFoundError:
        raise InputError(f"{path}: no word times; write them or run an aligner") from None
    except (ValueError, KeyError, TypeError) as error:
        layout = "{'alignments': [[word, [start, end], speaker]]}"
        raise InputError(f"{path}: not an alignment file ({error}); expected {layout}") from None
    for before, word in zip(words, words[1:], strict=False):
        if word.end < word.start or word.start < before.start:
            raise InputError(f"{path}: word {word.text!r} at {word.start} s is reversed or out of order; sort and mend the times")
    return words


def encode_dialogues(stems: list[Path], codec: MimiCodec, tokenizer: Tokenizer) -> tuple[list[np.ndarray], list[dict]]:
    """Codes int64 [1 + 2K, T] of each usable dialogue, and what was rejected with its reason."""
    result, rejected = [], []
    for stem in stems:
        try:
            pcm = read_audio(stem.with_suffix(".wav"))
            if pcm.shape[0] != 2:
                raise InputError(f"{stem}.wav: has {pcm.shape[0]} channel(s); two are needed (left system, right user)")
            frames = pcm.shape[1] // FRAME_SAMPLES
            if frames == 0:
                raise InputError(f"{stem}.wav: shorter than one frame of 80 ms")
            row = words_to_row(read_words(stem.with_suffix(".json")), frames, tokenizer)
        except InputError as error:
            rejected.append({"path": str(stem), "reason": str(error)})
            continue
        # One dialogue at a time: the first layers' activations of a larger batch fall out of the processor's cache.
        pcm_21S = torch.from_numpy(pcm[:, None, : frames * FRAME_SAMPLES])
        system, user = codec.encode(pcm_21S).numpy()
        result.append(np.concatenate([row[None], system, user]))
    return result, rejected


def part_of(text: str) -> tuple[int, int]:
    """"1/4" -> (1, 4): which share of the shards to make; InputError for anything else."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise InputError(f"--part {text}: give I/N with I from 0 to N - 1, such as 0/2")
    return int(index), int(count)


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("prepare", __doc__)
    parser.add_argument("dialogues", type=Path)
    parser.add_argument("--codec", type=Path, required=True, help="folder with mimi.safetensors and mimi.json")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--codebooks", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-shard", type=int, default=16)
    parser.add_argument("--part", default="0/1", help="I/N: do every N-th shard only (N commands share the work)")
    cli.add_threads(parser)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> int:
    """Writes the shards that are not there yet; the exit status is 1 when more than 5 % of the dialogues are unusable."""
    codec = trained_codec(args.codec, args.codebooks)
    tokenizer = Tokenizer.load(args.tokenizer)
    stems = sorted(p.with_suffix("") for p in args.dialogues.glob("*.wav") if not p.name.endswith(".part.wav"))
    if not stems:
        raise InputError(f"{args.dialogues}: no wav files; give the folder of one split")
    metadata = {"codec": fingerprint(args.codec / "mimi.safetensors"), "tokenizer": fingerprint(args.tokenizer),
                "codebooks": str(args.codebooks), "vocabulary": str(tokenizer.vocab_size), "cardinality": str(codec.cardinality)}
    args.out.mkdir(parents=True, exist_ok=True)
    index, count = part_of(args.part)
    groups = [stems[i : i + args.per_shard] for i in range(0, len(stems), args.per_shard)]
    mine = [(n, g) for n, g in enumerate(groups) if n % count == index]
    rejects, started = 0, time.monotonic()
    for done, (number, group) in enumerate(mine, 1):
        path = args.out / f"shard-{number:05d}.safetensors"
        if path.exists():
            continue
        codes, rejected = encode_dialogues(group, codec, tokenizer)
        rejects += len(rejected)
        with open(args.out / "rejected.jsonl", "a") as log:
            log.writelines(json.dumps(r) + "\n" for r in rejected)
        if codes:
            write_shard(path, codes, metadata)
        left = (time.monotonic() - started) / done * (len(mine) - done) / 60
        print(f"\rshard {done}/{len(mine)}, {left:.1f} min left ", end="", flush=True)
    print(f"\r{len(mine)} shards in {args.out}, {rejects} dialogues rejected" + " " * 10)
    return 1 if rejects > 0.05 * len(stems) else 0


if __name__ == "__main__":
    raise SystemExit(main())
