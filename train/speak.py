"""Speak every line of the scripts in many voices into an utterance bank.

    python -m train.speak --out BANK [--engine hibari …] [--kokoro-voices FOLDER] [--seed 0] [--workers 2]

Engines run in processes of their own, go on where they were stopped, and one that is not installed is named with the line
that installs it while the others go on. Word times that an engine cannot give come from forced alignment.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from train import cli
from train.corpus.filling import ENGINES, Voices, complete, fill_bank, make_engine, requests_for
from train.corpus.lines import script_lines

__all__ = ["make_engine", "requests_for", "script_lines"]


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("speak", __doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engine", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--kokoro-voices", help="folder with the *.bin voices of the npm package kokoro-js")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=float, default=1.0, help="share of each speaker's lines to speak")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-align", action="store_true", help="leave missing word times out (engines that run apart)")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Fills the bank; InputError when no engine can run."""
    fill_bank(args.out, Voices(tuple(args.engine), args.kokoro_voices, args.seed, args.lines), args.workers)
    if not args.no_align:
        complete(args.out, args.engine)


if __name__ == "__main__":
    raise SystemExit(main())
