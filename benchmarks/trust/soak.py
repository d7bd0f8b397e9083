"""A long run: conversations in real time for hours, and what latency and memory do meanwhile.

    python -m benchmarks.trust.soak --minutes 120 --sessions 2 --json out/trust/soak.json

One client talks all the time; each of the others talks for a few minutes, hangs up and comes back, so that slots are used again
and again; every second one speaks Ogg/Opus, the others plain samples. The record is written anew with every line of the server,
so a run that was cut short counts for what it lasted.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import record
from benchmarks.trust.load import Host, Tally, converse, hosting
from infer import cli

WARM_SHARE, WARM_MINUTES = 0.25, 15.0
"""The slopes leave out the first quarter of a run, at most 15 minutes: pools and caches fill."""


def slope(hours: Sequence[float], values: Sequence[float]) -> tuple[float, float, float] | None:
    """Theil and Sen's slope per hour: the median over all pairs, with the interval of 95 % by Kendall's statistic (Sen 1968).

    A few minutes in which the machine did something else hardly move it. None for fewer than three values.
    """
    x, y = np.asarray(hours, float), np.asarray(values, float)
    n = len(x)
    if n < 3:
        return None
    first, second = np.triu_indices(n, 1)
    slopes = np.sort((y[second] - y[first]) / (x[second] - x[first]))
    half = 1.96 * np.sqrt(n * (n - 1) * (2 * n + 5) / 18) / 2
    low, high = max(int(len(slopes) / 2 - half), 0), min(int(len(slopes) / 2 + half), len(slopes) - 1)
    return float(np.median(slopes)), float(slopes[low]), float(slopes[high])


def settled(lines: Sequence[dict]) -> list[dict]:
    """The lines after the warming up, without those in which nothing was stepped."""
    if not lines:
        return []
    warm = min(WARM_SHARE * lines[-1]["seconds"], 60 * WARM_MINUTES)
    return [line for line in lines if line["seconds"] > warm and line["step"]["n"]]


def judged(lines: Sequence[dict]) -> dict:
    """Slopes of the run so far: {name: {value, low, high} per hour}, memory in per cent of its first settled value."""
    kept = settled(lines)
    hours = [line["seconds"] / 3600 for line in kept]
    found: dict[str, dict | None] = {}
    for name, values in (("step_p50_ms", [line["step"]["p50_ms"] for line in kept]),
                         ("step_p99_ms", [line["step"]["p99_ms"] for line in kept]),
                         ("step_cpu_p50_ms", [line["step_cpu"]["p50_ms"] for line in kept]),
                         ("step_cpu_p99_ms", [line["step_cpu"]["p99_ms"] for line in kept]),
                         ("frame_p50_ms", [line["frame"]["p50_ms"] for line in kept]),
                         ("anon_percent", [100 * line["anon_kb"] / kept[0]["anon_kb"] for line in kept]),
                         ("rss_percent", [100 * line["rss_kb"] / kept[0]["rss_kb"] for line in kept]),
                         ("descriptors", [line["descriptors"] for line in kept]),
                         ("tasks", [line["tasks"] for line in kept])):
        fit = slope(hours, values)
        found[name] = None if fit is None else dict(zip(("value", "low", "high"), (round(v, 4) for v in fit), strict=True))
    return found


class Record:
    """The run as it goes, on the disk after every line."""

    def __init__(self, path: Path | None, head: dict) -> None:
        self.path, self.result = path, head | {"finished": False, "lines": [], "clients": {}, "slopes": {}}
        self._lock = threading.Lock()

    def line(self, line: dict) -> None:
        """Takes a line of the server."""
        with self._lock:
            self.result["lines"].append(line)
            self.result["slopes"] = judged(self.result["lines"])
            record.write(self.path, self.result)

    def clients(self, tally: Tally, finished: bool) -> None:
        """Takes what the clients have counted."""
        with self._lock:
            self.result |= {"clients": tally.to_dict(), "finished": finished}
            record.write(self.path, self.result)


async def talkers(host: Host, seconds: float, sessions: int, tally: Tally, stay: float) -> None:
    """One client for the whole time, the others coming and going every `stay` seconds."""
    ending = time.monotonic() + seconds

    async def guest(number: int) -> None:
        call = 0
        while (left := ending - time.monotonic()) > 2:
            part = left if number == 0 else min(left, stay)
            await converse(host, part, tally, opus=number % 2 == 1, phase=0.08 * number / sessions, seed=number + 100 * call)
            call += 1

    await asyncio.gather(*(guest(number) for number in range(sessions)))


def measure(sessions: int, seconds: float, *, model: str = "tiny", every: float = 60.0, stay: float = 300.0,
            path: Path | None = None, seed: int = 0, random: bool = False) -> dict:
    """Runs so many conversations for so long; gives the record. `random`: with a small random model."""
    kept = Record(path, record.stamp("soak", seed) | {"sessions": sessions, "wanted_seconds": seconds, "model": Path(model).name})
    kept.result.pop("notice")
    tally = Tally()
    options = ("--slots", str(sessions), "--model", model, "--session-seconds", "86400", *(["--random"] if random else []))
    with hosting(*options, every=every, on_line=kept.line) as host:
        async def both() -> None:
            talk = asyncio.create_task(talkers(host, seconds, sessions, tally, stay))
            while not talk.done():
                await asyncio.wait([talk], timeout=every)
                kept.clients(tally, False)
            await talk
            await asyncio.sleep(min(every, 1.0) + 0.3)  # the server's last line

        asyncio.run(both())
    kept.clients(tally, True)
    return kept.result


def run(args: argparse.Namespace) -> None:
    """Runs, writes, and says in a few lines what came out."""
    path = Path(args.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    result = measure(args.sessions, 60 * args.minutes, model=args.model, every=args.every, path=path)
    print(f"{len(result['lines'])} lines, {result['clients']}")
    for name, value in result["slopes"].items():
        print(f"{name} per hour: {value}")
    print(f"wrote {path}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.trust.soak", "Hold conversations in real time for hours.")
    parser.add_argument("--minutes", type=cli.number(0.05, 24 * 60), default=120.0, metavar="M")
    parser.add_argument("--sessions", type=cli.at_least(1), default=2, metavar="N", help="conversations at once")
    parser.add_argument("--every", type=cli.number(0.5, 3600), default=60.0, metavar="S", help="seconds between two lines")
    parser.add_argument("--model", default="tiny", metavar="MODEL")
    parser.add_argument("--json", default="out/trust/soak.json", metavar="FILE", help="where the record goes")
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
