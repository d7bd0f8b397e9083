"""Results on record: who measured what, when, where and with which seed; written whole or not at all."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from duplex.errors import InputError
from train.files import replace_file

ROOT = Path(__file__).resolve().parents[1]
NOTICE = ("Items are synthesised by speech engines in the format of public benchmarks: the numbers compare systems on the same "
          "items (protocol-compatible), never with a public leaderboard.")
MOST_EXCLUDED = 0.05
"""Largest share of items that may be left out of a result."""


class Clock:
    """Says on stderr what is going on and how long it took."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.cpu = time.process_time()
        self.spent: dict[str, float] = {}

    def done(self, what: str) -> None:
        now, cpu = time.monotonic(), time.process_time()
        self.spent[what] = round(now - self.last, 1)
        print(f"{now - self.start:6.0f} s  {what} ({now - self.last:.0f} s, {cpu - self.cpu:.0f} s of the processor)",
              file=sys.stderr, flush=True)
        self.cpu = cpu
        self.last = now


def stamp(benchmark: str, seed: int, **more: Any) -> dict:
    """The head of every result."""
    return {"benchmark": benchmark, "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": commit(), "machine": machine(), "seed": seed, "command": " ".join(["python -m", *_command()]),
            "packages": {name: _version(name) for name in ("torch", "moshi", "numpy")}, "notice": NOTICE, **more}


def commit() -> str:
    """The commit of the working tree, with "+" where files of the program are changed; "unknown" outside a checkout."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "duplex", "benchmarks", "train", "infer")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> str:
    """Processor, number of cores in use, operating system."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores, " \
           f"{torch.get_num_threads()} thread(s), {platform.system()}"


def _command() -> list[str]:
    """The command line, without folders of this machine."""
    arguments = [re.sub(r"(?<![\w./])/(?:[^/]*/)*", "", a) for a in sys.argv[1:]]
    name = Path(sys.argv[0])
    return [f"{name.parent.name}.{name.stem}" if name.parent.name == "benchmarks" else name.stem, *arguments]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def write(path: str | Path | None, result: dict) -> None:
    """Writes a result as JSON, if a path is given; InputError when that cannot be."""
    if path is None:
        return
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: there is no such folder; make it first")
    replace_file(path, lambda part: part.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8"))


def read(path: str | Path) -> dict:
    """A result that `write` wrote; InputError when it is none."""
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(result, dict) or "benchmark" not in result:
            raise ValueError
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except ValueError:
        raise InputError(f"{path}: not a result of these benchmarks; give a file that --json wrote") from None
    return result


def refuse_excluded(tasks: dict[str, dict]) -> None:
    """Raises InputError when more than 5 % of any task's items were left out; ``excluded`` and ``items`` of each are counted."""
    for name, task in tasks.items():
        if len(task["excluded"]) > MOST_EXCLUDED * task["items"]:
            raise InputError(f"{name}: {len(task['excluded'])} of {task['items']} items could not be scored, more than "
                             f"{MOST_EXCLUDED:.0%}; the first: {task['excluded'][0]}")


def number(value: float | None, unit: str = "") -> str:
    """A number for a table: shares as per cent, seconds and others with digits that mean something; — for none."""
    if value is None:
        return "—"
    if unit == "%":
        return f"{100 * value:.1f} %"
    digits = 2 if abs(value) < 100 else 0
    return f"{value:.{digits}f}" + (f" {unit}" if unit else "")


def cell(estimate: dict | None, unit: str = "") -> str:
    """An estimate for a table: value, interval, number of items."""
    if not estimate or not estimate["n"]:
        return "—"
    if estimate["value"] is None:
        return f"never (n = {estimate['n']})"
    low, high = (number(estimate[k], unit).removesuffix(f" {unit}") if estimate[k] is not None else "∞" for k in ("low", "high"))
    interval = "" if estimate["low"] is None and estimate["high"] is None else f" [{low}, {high}]"
    return f"{number(estimate['value'], unit)}{interval} (n = {estimate['n']})"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that the benches share."""
    parser.add_argument("--json", metavar="FILE", help="also write the result there")
    parser.add_argument("--clips-folder", default="out/bench/clips", metavar="FOLDER", help="where spoken clips are kept")
    parser.add_argument("--whisper", metavar="FOLDER", help="a CTranslate2 Whisper model in place of the packaged one")
    parser.add_argument("--keep", metavar="FOLDER", help="keep parts that are done there, and do not measure them again")
