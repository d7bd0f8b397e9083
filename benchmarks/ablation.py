"""What a model's misses come from, as far as that can be found out without training: the same questions under other conditions.

    python -m benchmarks.ablation --model tiny [--items 200] [--json ablation.json]

Right answers by the model's own text. Beside the questions of the card (voices, wordings and arguments that training never had)
stand the same with voices of training, with lines of training, with both; other temperatures; a model that is made to wait for
the end of the question; a user whose voice has gone through the codec before. A difference says what a miss is due to, no more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import errors, record, tasks
from benchmarks.card import details
from benchmarks.clips import Clips
from benchmarks.items import Item
from benchmarks.kept import Kept, fingerprint
from benchmarks.rollout import decode_all, encode_all, rollouts
from benchmarks.scoring import score
from benchmarks.systems import Response
from duplex.checkpoint import LoadedModel, load_model
from duplex.config import SamplingConfig
from duplex.errors import InputError
from duplex.units import seconds_to_frames
from infer import cli


@dataclass(frozen=True)
class Condition:
    """One way to ask the questions."""

    name: str
    what: str
    voices: str = "test"
    lines: str = "test"
    sampling: Callable[[SamplingConfig], SamplingConfig] = lambda sampling: sampling
    waits: bool = False
    """No word before the user's turn is over."""
    task: str = "turn"
    """What is asked: one of the tasks that come in both splits."""
    coded: bool = False
    """The user's sound has been through the codec once before."""


CONDITIONS = (
    Condition("card", "as in the card: nothing of it in training"),
    Condition("voices", "voices of training", voices="train"),
    Condition("lines", "wordings and arguments of training", lines="train"),
    Condition("both", "voices, wordings and arguments of training", voices="train", lines="train"),
    Condition("greedy", "no chance in the text", sampling=lambda s: replace(s, text_temperature=0.0)),
    Condition("warm", "text temperature 0.7", sampling=lambda s: replace(s, text_temperature=0.7)),
    Condition("waits", "made to wait for the end of the question", waits=True),
    Condition("coded", "the user's voice has been through the codec before", coded=True),
    Condition("name", "the name, half a minute later, in wordings of training", lines="train", task="name_recall"),
    Condition("order", "the order, half a minute later, in wordings and arguments of training", lines="train",
              task="order_recall"),
)


def ask(model: LoadedModel, condition: Condition, clips: dict[str, Clips], count: int, seed: int) -> dict:
    """Kinds of answers under a condition: the tally of `benchmarks.errors`."""
    items = [getattr(tasks, condition.task)(clips[condition.voices], seed, number, condition.lines) for number in range(count)]
    users = [item.user for item in items]
    if condition.coded:
        codes = [np.asarray(codes_KT) for codes_KT in encode_all(model, users)]
        users = decode_all(model, codes, 0)
    hold = [seconds_to_frames(item.marks["turn"][1]) for item in items] if condition.waits else None
    runs = rollouts(model, users, [seed * 100_000 + item.seed for item in items], sampling=condition.sampling(model.sampling),
                    decode=False, hold=hold)
    scores = [_by_text(item, run.words) for item, run in zip(items, runs, strict=True)]
    return errors.tally(details(items, scores))


def _by_text(item: Item, words: Sequence) -> dict:
    """Whether the answer's words are right; what is heard of it is left out."""
    given = score(item, Response(np.zeros_like(item.user), tuple(words)))
    return {name: given[name] for name in ("right", "heard")}


def run(args: argparse.Namespace) -> None:
    """Asks under all conditions and prints the table."""
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"{args.json}: there is no such folder; make it first")
    clock, model = record.Clock(), load_model(args.model, backend="auto")
    if not model.lm.layout.n_user:
        raise InputError(f"{args.model}: the model hears no user, so that it cannot be asked; give one with two voices")
    clips = {split: Clips(args.clips_folder, split=split) for split in ("test", "train")}
    kept = Kept(args.keep, model=fingerprint(model.folder) if args.keep else "", backend=model.backend, seed=args.seed,
                items=args.items, voices=clips["test"].versions)
    rows = []
    for condition in CONDITIONS:
        found = kept.get(f"ablation {condition.name}", partial(ask, model, condition, clips, args.items, args.seed))
        rows.append({"name": condition.name, "what": condition.what, **found})
        clock.done(condition.name)
    result = record.stamp("ablation", args.seed, model=Path(args.model).name, items=args.items, engines=clips["test"].versions,
                          rows=rows, kept=kept.measured, seconds=clock.spent)
    print(table(result))
    record.write(args.json, result)
    print(json.dumps(result))


def table(result: dict) -> str:
    """The result as a Markdown table."""
    return errors.table({row["what"]: row for row in result["rows"]}, "questions")


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.ablation", "Ask the questions of the card under other conditions.")
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="'tiny', a checkpoint folder or a hub id")
    parser.add_argument("--items", type=cli.at_least(1), default=200, metavar="N", help="questions under each condition")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, help="of questions and sampling")
    record.add_options(parser)
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
