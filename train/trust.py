"""Kill a training run again and again, and compare it with one that was left alone.

    python -m train.trust RECIPE.toml … --out FOLDER [--kills 20] [--seed 0]

All options of train.fit but --out and --minutes are passed on. Two runs are made: FOLDER/whole, and FOLDER/killed, which is
killed with SIGKILL at random moments, half of them while it writes a checkpoint, some while it starts, and started again each
time. The exit status is 0 when losses, sample numbers and final weights agree to the last bit.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from duplex.errors import InputError
from train import cli
from train.forked import start
from train.keeping import LAST, LEDGER, entries

TRAINING, SAVING, STARTING = "while training", "inside a save", "while starting"
MOMENTS = (TRAINING, SAVING, STARTING, SAVING)
SAVES = 3  # checkpoints at most that a run may finish between two kills
STARTS = 1.5  # seconds: how long after its beginning a run is killed at most before it trains


def last_step(out: Path) -> int:
    """Steps that the ledger on the disk knows."""
    lines = entries(out / LEDGER)
    return lines[-1]["step"] + 1 if lines else 0


def written(file: Path) -> int:
    """When a file was last written; 0 where there is none."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def kill_once(process: BaseProcess, out: Path, rng: random.Random, moment: str) -> str | None:
    """Kills the run at a random ``moment`` of the kind; says where it really was, or None when it ended first."""
    part, pid = out / (LAST + ".part"), process.pid or 0
    left = written(part)  # by an earlier kill: no save of this process
    before, saved = written(out / LAST), [time.monotonic()]  # the beginning, then each checkpoint

    def saving() -> bool:
        return written(part) not in (0, left)

    wanted, share = rng.randint(1, SAVES), rng.random()
    while process.is_alive():
        now = written(out / LAST)
        if now != before:
            before, saved = now, [*saved, time.monotonic()]
        if moment == SAVING and len(saved) >= wanted and saving():
            os.kill(pid, signal.SIGSTOP)
            if saving():  # it stands still in the middle of a save
                break
            os.kill(pid, signal.SIGCONT)
        if moment == TRAINING and len(saved) > wanted and time.monotonic() - saved[-1] > share * (saved[-1] - saved[-2]):
            break
        if moment == STARTING and (time.monotonic() - saved[0] > share * STARTS or len(saved) > 1):
            break
        time.sleep(0.0005 if moment == SAVING else 0.005)
    if not process.is_alive():
        return None
    os.kill(pid, signal.SIGKILL)
    process.join()
    return SAVING if saving() else STARTING if len(saved) == 1 else TRAINING


def difference(a: Path, b: Path) -> str | None:
    """How two finished runs differ; None when they agree to the last bit."""
    first, second = entries(a / LEDGER), entries(b / LEDGER)
    if len(first) != len(second):
        return f"{len(first)} steps against {len(second)}"
    for x, y in zip(first, second, strict=True):
        if x != y:
            return f"step {x['step']}: {x} against {y}"
    # Both files were written by these very runs.
    weights = [torch.load(run / LAST, map_location="cpu", weights_only=True)["state_dict"] for run in (a, b)]
    unequal = [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])]
    return f"weights differ: {unequal[0]}" if unequal else None


def to_its_end(arguments: list[str], out: Path) -> bool:
    """Runs train.fit until it ends; whether it went well. Its output is added to OUT.log."""
    process, = start([*arguments, "--out", str(out)], out.with_suffix(".log"))
    process.join()
    return process.exitcode == 0


def killed_again_and_again(arguments: list[str], folder: Path, kills: int, seed: int) -> Iterator[str]:
    """Makes FOLDER/whole and FOLDER/killed; yields where each kill found the run. Fewer than ``kills`` when it ended first."""
    whole, killed = folder / "whole", folder / "killed"
    folder.mkdir(parents=True, exist_ok=True)
    if (killed / LEDGER).exists():
        raise InputError(f"{killed}: a run is there already; give another --out")
    if not to_its_end(arguments, whole):
        raise InputError(f"{whole.with_suffix('.log')}: the undisturbed run failed; see its last line")
    rng = random.Random(seed)
    for number in range(kills):
        process, = start([*arguments, "--out", str(killed)], killed.with_suffix(".log"))
        where = kill_once(process, killed, rng, MOMENTS[number % len(MOMENTS)])
        if where is None:
            if process.exitcode:
                raise InputError(f"{killed.with_suffix('.log')}: the run could not be resumed; see its last line")
            break
        yield where
    if not to_its_end(arguments, killed):
        raise InputError(f"{killed.with_suffix('.log')}: the run could not be resumed; see its last line")


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("trust", __doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    try:
        args, rest = parser.parse_known_args(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return cli.USER_ERROR
    args.rest = rest
    return cli.run(_Parsed(args), run, argv)  # type: ignore[arg-type]


class _Parsed:
    """Arguments that were parsed already: the rest belongs to train.fit."""

    def __init__(self, args: argparse.Namespace):
        self.args = args

    def parse_args(self, _argv: object) -> argparse.Namespace:
        return self.args


def run(args: argparse.Namespace) -> int:
    """Makes both runs and compares them."""
    killed, done = args.out / "killed", 0
    for done, where in enumerate(killed_again_and_again(args.rest, args.out, args.kills, args.seed), 1):  # noqa: B007
        print(f"kill {done}: {where}, {last_step(killed)} steps on the disk", flush=True)
    found = difference(args.out / "whole", killed)
    print(f"{done} kills, {last_step(killed)} steps: " + (found or "losses, samples and weights are equal to the last bit"))
    if done < args.kills:
        print("the run ended before the last kill; give it more steps")
    return 1 if found or done < args.kills else 0


if __name__ == "__main__":
    raise SystemExit(main())
