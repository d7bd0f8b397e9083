"""The options of the commands that read recordings."""

from __future__ import annotations

import argparse

from train.own.labels import MAX_OVERLAP
from train.own.recording import Reading


def add_reading(parser: argparse.ArgumentParser) -> None:
    """--system, --left, --right, --max-overlap."""
    parser.add_argument("--system", help="whose side the model learns: left (default), right, or a speaker's label")
    parser.add_argument("--left", nargs="+", default=[], metavar="LABEL", help="further labels of the speaker on the left")
    parser.add_argument("--right", nargs="+", default=[], metavar="LABEL", help="further labels of the speaker on the right")
    parser.add_argument("--max-overlap", type=float, default=MAX_OVERLAP, metavar="SECONDS",
                        help="by how much a speaker's word may begin before the last one ended")


def reading_of(args: argparse.Namespace, need_words: bool = True) -> Reading:
    """The `Reading` that the options ask for."""
    plain = Reading()
    return Reading(args.system, (*plain.left, *args.left), (*plain.right, *args.right), need_words, args.max_overlap)
