"""What patience costs and what it saves: pauses that are taken for the end of a turn, against answers that come later or never.

    python -m benchmarks.patience --model tiny [--items 100] [--values 0 2 4] [--json patience.json]

The questions and pauses of the card, and barge-ins, under several values of `SamplingConfig.patience`; no model is trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import record, tasks
from benchmarks.clips import Clips
from benchmarks.kept import Kept, fingerprint
from benchmarks.scoring import excluded, score, values
from benchmarks.statistics import mean, median
from benchmarks.systems import ModelSystem
from duplex.checkpoint import LoadedModel, load_model
from duplex.errors import InputError
from infer import cli

VALUES = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)
MEASURES = (("turn.takes_turn", "takes the turn ↑", "%"), ("turn.response_s", "median response ↓", "s"),
            ("turn.right", "right answer ↑", "%"), ("pause.takes_over", "takes a pause for the end ↓", "%"),
            ("pause.right", "right after the pause ↑", "%"), ("interruption.right", "right after a barge-in ↑", "%"))


def measure(model: LoadedModel, patience: float, clips: Clips, count: int, seed: int) -> dict[str, dict]:
    """Estimates of `MEASURES` under a patience; "tasks" says which items could not be scored."""
    system, found = ModelSystem(model, sampling=replace(model.sampling, patience=patience), seed=seed), {"tasks": {}}
    for task in ("turn", "pause", "interruption"):
        items = tasks.make(clips, task, count, seed)
        scores = [score(item, response) for item, response in zip(items, system.respond(items), strict=True)]
        found["tasks"][task] = {"items": len(items), "excluded": excluded(scores)}
        for name, _, unit in MEASURES:
            if name.startswith(f"{task}."):
                found[name] = (median if unit == "s" else mean)(values(scores, name.split(".")[1])).to_dict()
    return found


def run(args: argparse.Namespace) -> None:
    """Measures all values and prints the table."""
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"{args.json}: there is no such folder; make it first")
    clock, model, clips = record.Clock(), load_model(args.model, backend="auto"), Clips(args.clips_folder)
    kept = Kept(args.keep, model=fingerprint(model.folder) if args.keep else "", backend=model.backend, seed=args.seed,
                items=args.items, voices=clips.versions)
    rows = []
    for value in sorted({*args.values, model.sampling.patience}):
        found = kept.get(f"patience {value:g}", partial(measure, model, value, clips, args.items, args.seed))
        rows.append({"patience": value, "recommended": value == model.sampling.patience, **found})
        clock.done(f"{value:g}")
    result = record.stamp("patience", args.seed, model=Path(args.model).name, items=args.items, engines=clips.versions, rows=rows,
                          kept=kept.measured, seconds=clock.spent)
    print(table(result))
    record.write(args.json, result)
    for row in rows:
        record.refuse_excluded({f"patience {row['patience']:g}, {task}": part for task, part in row["tasks"].items()})
    print(json.dumps(result))


def table(result: dict) -> str:
    """The result as a Markdown table; the value that the model recommends is bold."""
    lines = ["| patience | " + " | ".join(title for _, title, _ in MEASURES) + " |", "|---:|" + "---:|" * len(MEASURES)]
    for row in result["rows"]:
        name = f"**{row['patience']:g}**" if row["recommended"] else f"{row['patience']:g}"
        lines.append(f"| {name} | " + " | ".join(record.cell(row[key], unit) for key, _, unit in MEASURES) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.patience", "Measure turn-taking under several values of patience.")
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="'tiny', a checkpoint folder or a hub id")
    parser.add_argument("--items", type=cli.at_least(1), default=100, metavar="N", help="items of each task")
    parser.add_argument("--values", type=cli.number(0), nargs="+", default=VALUES, metavar="L", help="logits")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, help="of items and sampling")
    record.add_options(parser)
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
