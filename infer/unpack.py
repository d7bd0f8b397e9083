"""Unpack an archive of a model, of recordings or of a benchmark, inside a new folder only.

    python -m infer.unpack model.tar.gz FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from duplex.archive import unpack
from infer import cli


def parser() -> cli.Parser:
    parser = cli.Parser("infer.unpack", "Unpack a tar or zip archive inside a new folder only.")
    parser.add_argument("archive", help="tar, tar.gz, tar.bz2, tar.xz or zip")
    parser.add_argument("folder", help="a folder that does not exist yet")
    parser.add_argument("--gigabytes", type=cli.number(0, 10_000), default=100.0, metavar="N", help="largest size, unpacked")
    return parser


def run(args: argparse.Namespace) -> None:
    """Unpacks, and says how much."""
    files = unpack(args.archive, args.folder, int(args.gigabytes * (1 << 30)))
    print(f"{len(files)} files in {args.folder}")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
