"""Turn text files into shards of text alone, for the text stage and for mixing into the audio stage.

    python -m train.text FILES… --tokenizer FILE.model --out TEXT [--test-share 0.02]

Files are UTF-8; an empty line ends a document. TEXT gets train/ and test/: every document is in one of them, by its content.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from duplex.errors import InputError
from duplex.text import Tokenizer
from train import cli
from train.shards import fingerprint, write_shard

PER_SHARD = 1_000_000  # tokens


def documents(path: Path) -> Iterator[str]:
    """The paragraphs of a file between empty lines; InputError for bytes that are no UTF-8."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; convert it") from None
    yield from filter(None, (part.strip() for part in text.split("\n\n")))


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("text", __doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--test-share", type=float, default=0.02)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Writes the shards; one long row of documents a shard, EPAD between them."""
    tokenizer = Tokenizer.load(args.tokenizer)
    metadata = {"tokenizer": fingerprint(args.tokenizer), "vocabulary": str(tokenizer.vocab_size)}
    rows: dict[str, list[int]] = {"train": [], "test": []}
    counts = {"train": 0, "test": 0}

    def write(split: str) -> None:
        folder = args.out / split
        folder.mkdir(parents=True, exist_ok=True)
        write_shard(folder / f"shard-{counts[split]:05d}.safetensors", [np.array(rows[split])[None]], metadata)
        counts[split] += 1
        rows[split] = []

    for path in args.files:
        for document in documents(path):
            draw = hashlib.sha256(document.encode()).digest()[0] / 256
            split = "test" if draw < args.test_share else "train"
            rows[split] += [*tokenizer.encode(document), tokenizer.epad_id]
            if len(rows[split]) >= PER_SHARD:
                write(split)
    for split, row in rows.items():
        if row:
            write(split)
        elif not counts[split]:
            raise InputError(f"{args.out}: no document fell into {split}; give more text or another --test-share")
    print(f"{sum(counts.values())} shards in {args.out}")


if __name__ == "__main__":
    raise SystemExit(main())
