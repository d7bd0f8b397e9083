"""Kill a training run again and again, and compare it with one that was left alone.

    python -m train.trust RECIPE.toml … --out FOLDER [--kills 20] [--seed 0]

All options of train.fit but --out and --minutes are passed on. Two runs are made: FOLDER/whole, and FOLDER/killed, which is
killed with SIGKILL at random moments, half of them while it writes a checkpoint, and started again each time. The exit status
is 0 when losses, sample numbers and final weights agree to the last bit.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from duplex.errors import InputError
from train import cli
from train.keeping import LAST, LEDGER, entries


def start(arguments: list[str], out: Path) -> subprocess.Popen:
    """train.fit in a process of its own, its output in OUT.log."""
    with open(out.with_suffix(".log"), "a") as log:
        return subprocess.Popen([sys.executable, "-m", "train.fit", *arguments, "--out", str(out)], stdout=log, stderr=log)


def last_step(out: Path) -> int:
    """Steps that the ledger on the disk knows."""
    lines = entries(out / LEDGER)
    return lines[-1]["step"] + 1 if lines else 0


def kill_once(process: subprocess.Popen, out: Path, rng: random.Random, in_save: bool) -> str | None:
    """Kills the run a random while after it has begun to train, or inside a save; says where; None when it ended first."""
    part = out / (LAST + ".part")
    before = os.stat(out / LAST).st_mtime_ns if (out / LAST).exists() else 0
    wait = rng.uniform(0.0, 2.0)
    begun = None
    while process.poll() is None:
        if in_save:
            if part.exists():
                process.send_signal(signal.SIGSTOP)
                if part.exists():  # it stands still in the middle of a save
                    break
                process.send_signal(signal.SIGCONT)
        else:
            saved = os.stat(out / LAST).st_mtime_ns if (out / LAST).exists() else 0
            begun = begun or (time.monotonic() if saved != before else None)
            if begun and time.monotonic() - begun > wait:
                break
        time.sleep(0.0005 if in_save else 0.02)
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return f"{'inside a save' if in_save and part.exists() else 'while training'}, {last_step(out)} steps on the disk"


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
    whole, killed = args.out / "whole", args.out / "killed"
    args.out.mkdir(parents=True, exist_ok=True)
    if start(args.rest, whole).wait():
        raise InputError(f"{whole.with_suffix('.log')}: the undisturbed run failed; see its last line")
    rng, done = random.Random(args.seed), 0
    for number in range(args.kills):
        where = kill_once(start(args.rest, killed), killed, rng, in_save=number % 2 == 1)
        if where is None:
            break
        done += 1
        print(f"kill {done}: {where}", flush=True)
    if start(args.rest, killed).wait():
        raise InputError(f"{killed.with_suffix('.log')}: the run could not be resumed; see its last line")
    found = difference(whole, killed)
    print(f"{done} kills, {last_step(killed)} steps: " + (found or "losses, samples and weights are equal to the last bit"))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
