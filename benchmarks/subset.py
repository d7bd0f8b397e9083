"""A small fixed set of conversations for every build: a clear loss of quality fails the tests, speed is left to the suites.

    python -m benchmarks.subset [--model tiny] [--json docs/results/subset.json]     measure, and put on record
    python -m benchmarks.subset --make                                               speak the set anew (needs the engines)

The recordings lie compressed beside the tests, so that no speech engine and no recogniser is needed to play them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from benchmarks import record, tasks
from benchmarks.clips import Clips
from benchmarks.folders import fitted
from benchmarks.items import Item
from benchmarks.scoring import score, values
from benchmarks.statistics import mean
from benchmarks.systems import ModelSystem
from duplex.audio import read_audio, to_mono
from duplex.checkpoint import LoadedModel, load_model
from duplex.errors import InputError
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE
from infer import cli

FOLDER = record.ROOT / "tests" / "golden" / "subset"
COUNTS = {"turn": 24, "pause": 8, "interruption": 12, "backchannel": 8}
SHARES = {"turn": ("takes_turn", "right"), "pause": ("takes_over",), "interruption": ("speaking", "stops"),
          "backchannel": ("goes_on",)}
LOWER_IS_BETTER = ("pause.takes_over",)
CLEAR = 0.25
"""A share that is worse by more than this than the one on record is a clear loss: chance moves 24 items less."""
FEW = 5
"""A share of fewer items than that is not held against a model."""


def make(clips: Clips, folder: Path, seed: int) -> None:
    """Speaks the set and stores it: Ogg Vorbis and one JSON with the marks."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for task, count in COUNTS.items():
        for item in tasks.make(clips, task, count, seed):
            path = folder / f"{item.name.replace('/', '-')}.ogg"
            soundfile.write(path, item.user, SAMPLE_RATE, format="OGG", subtype="VORBIS")
            entries.append({"file": path.name, "task": task, "scenario": item.scenario, "speaker": item.speaker,
                            "seed": item.seed, "frames": len(item.user) // FRAME_SAMPLES, "marks": item.marks,
                            "asked": item.asked, "expected": item.expected, "least": item.least})
    (folder / "items.json").write_text(json.dumps({"engines": clips.versions, "items": entries}, indent=1), encoding="utf-8")


def items(folder: Path = FOLDER) -> list[Item]:
    """The stored set; InputError when it is not there."""
    try:
        entries = json.loads((folder / "items.json").read_text(encoding="utf-8"))["items"]
    except (OSError, ValueError, KeyError):
        raise InputError(f"{folder}: no stored set; make it with python -m benchmarks.subset --make") from None
    found = []
    for e in entries:
        pcm = fitted(to_mono(read_audio(folder / e["file"])), e["frames"] * FRAME_SAMPLES)
        found.append(Item(f"{e['task']}/{e['seed']:04d}", e["task"], e["scenario"], e["speaker"], e["seed"], pcm,
                          {name: tuple(span) for name, span in e["marks"].items()}, e["asked"], tuple(e["expected"]), e["least"]))
    return found


def measure(model: LoadedModel, chosen: Sequence[Item], seed: int = 0) -> dict[str, dict]:
    """{"task.measure": Estimate} of the set."""
    found: dict[str, dict] = {}
    system = ModelSystem(model, seed=seed)
    for task, names in SHARES.items():
        of_task = [item for item in chosen if item.task == task]
        scores = [score(item, response) for item, response in zip(of_task, system.respond(of_task), strict=True)]
        for one in scores:
            one["stops"] = None if one.get("stop_s") is None else bool(float(np.float64(one["stop_s"])) <= 1.0)
        found |= {f"{task}.{name}": mean(values(scores, name)).to_dict() for name in names}
    return found


def losses(on_record: dict[str, dict], now: dict[str, dict]) -> list[str]:
    """What has become clearly worse, one line each. A measure whose question no longer arises counts as lost, too."""
    found = []
    for name, before in on_record.items():
        was, value = before["value"], now.get(name, {}).get("value")
        if was is None or before.get("n", FEW) < FEW:
            continue
        worse = 1.0 if value is None else (value - was) * (1 if name in LOWER_IS_BETTER else -1)
        if worse > CLEAR:
            found.append(f"{name} was {was:.2f} and is {'gone' if value is None else f'{value:.2f}'}")
    return found


def run(args: argparse.Namespace) -> None:
    """Makes or measures the set."""
    if args.make:
        make(Clips(args.clips_folder), FOLDER, args.seed)
        print(f"wrote {len(list(FOLDER.glob('*.ogg')))} recordings")
        return
    model = load_model(args.model, backend="auto")
    result = record.stamp("subset", args.seed, model=Path(args.model).name, scores=measure(model, items(), args.seed))
    for name, estimate in result["scores"].items():
        print(f"{name:24} {record.cell(estimate, '%')}")
    record.write(args.json, result)
    print(json.dumps(result))


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.subset", "Measure a small fixed set of conversations.")
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="'tiny', a checkpoint folder or a hub id")
    parser.add_argument("--make", action="store_true", help="speak the set anew in place of measuring")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, help="of items and sampling")
    record.add_options(parser)
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
