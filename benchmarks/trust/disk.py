"""Training on a disk that is full, or fills up: in a file system of its own of a few megabytes (Linux; no root is needed).

    unshare -Urm python -m benchmarks.trust.disk --folder FOLDER --whole WHOLE RECIPE.toml --shards SHARDS …

FOLDER becomes the small disk, WHOLE holds the same run as it ends undisturbed. Prints one JSON line a case: what the run said
when it stopped, and what was wrong ("" for nothing).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from train.forked import start
from train.keeping import LAST, LEDGER, entries
from train.trust import difference, to_its_end

LIMIT = 600.0  # seconds for anything that is waited for


def mount(folder: Path, megabytes: int) -> None:
    """An empty file system of so many megabytes at ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True, capture_output=True)


def free(folder: Path) -> int:
    """Bytes left."""
    state = os.statvfs(folder)
    return state.f_bavail * state.f_bsize


def fill(file: Path, left: int) -> None:
    """Writes ``file`` until ``left`` bytes remain."""
    with open(file, "wb", buffering=0) as out:
        out.write(bytes(max(0, free(file.parent) - left)))


def complaint(log: Path) -> str:
    """The error of a run that stopped; "" unless it is exactly one line."""
    found = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    return found[0] if len(found) == 1 and "Traceback" not in log.read_text() else ""


def full_at_the_start(arguments: list[str], folder: Path, whole: Path) -> tuple[str, str]:
    """A disk without room for two checkpoints; (what the run said, what was wrong)."""
    mount(folder, 1)
    log = whole.parent / "full-at-the-start.log"
    log.unlink(missing_ok=True)
    process, = start([*arguments, "--out", str(folder / "run")], log)
    process.join(LIMIT)
    said, left = complaint(log), [p.name for p in (folder / "run").rglob("*") if p.is_file()]
    wrong = [] if process.exitcode == 2 else [f"exit status {process.exitcode}"]
    wrong += ([] if "are free" in said else ["not one clear line"]) + ([f"files were left: {left}"] if left else [])
    return said, "; ".join(wrong)


def fills_up(spare: float) -> Callable[[list[str], Path, Path], tuple[str, str]]:
    """A case in which, after the first checkpoint, room is left for a share of one, ``spare``."""

    def case(arguments: list[str], folder: Path, whole: Path) -> tuple[str, str]:
        mount(folder, 64)
        log, run, filler = whole.parent / f"fills-up-{spare}.log", folder / "run", folder / "filler"
        log.unlink(missing_ok=True)
        process, = start([*arguments, "--out", str(run)], log)
        until = time.monotonic() + LIMIT
        while not (run / LAST).exists() and process.is_alive() and time.monotonic() < until:
            time.sleep(0.005)
        os.kill(process.pid or 0, signal.SIGSTOP)
        size = (run / LAST).stat().st_size
        fill(filler, int(spare * size))
        os.kill(process.pid or 0, signal.SIGCONT)
        process.join(LIMIT)
        said, wrong = complaint(log), []
        if process.exitcode != 2 or not said:
            wrong.append(f"exit status {process.exitcode}, not one clear line")
        kept = torch.load(run / LAST, map_location="cpu", weights_only=True)  # written by this very run
        if not 0 < kept["global_step"] <= len(entries(run / LEDGER)):
            wrong.append("the checkpoint has steps that the ledger lacks")
        if parts := list(run.glob("*.part")):
            wrong.append(f"half a file was left: {parts[0].name}")
        filler.unlink()
        if not to_its_end([*arguments], run):
            wrong.append("it could not be resumed")
        elif found := difference(whole, run):
            wrong.append(f"the resumed run differs: {found}")
        return said, "; ".join(wrong)

    return case


CASES = {"full at the start": full_at_the_start, "full after a checkpoint": fills_up(0.0),
         "full in the middle of a checkpoint": fills_up(0.5)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--whole", type=Path, required=True)
    args, rest = parser.parse_known_args()
    for number, (name, case) in enumerate(CASES.items()):
        said, wrong = case(rest, args.folder / str(number), args.whole)
        # The log of the resumed run lies on the small disk, which ends with this process.
        said = said.replace(str(args.folder), "FOLDER")
        print(json.dumps({"case": name, "said": said, "wrong": wrong}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
