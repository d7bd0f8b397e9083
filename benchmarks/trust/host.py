"""The server of `infer.serve` in a process of its own that keeps a record of itself: one line of JSON every so often.

    python -m benchmarks.trust.host --every 60 --port 0 --slots 2

The first line names the port; each later one holds what a stretch of time was like (`Stretch`). What is kept does not grow.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duplex.testing import fake_loaded_model
from infer import cli, serve
from infer.server.loop import Service
from infer.server.metrics import Metrics
from infer.server.rows import BatchedSessions

BIN_MS, BINS = 0.05, 40_000


class Times:
    """Times in bins of 0.05 ms up to 2 s: percentiles of any number of them in a fixed place."""

    def __init__(self, counts: np.ndarray | None = None) -> None:
        self.counts = np.zeros(BINS, np.int64) if counts is None else counts

    def add(self, seconds: float) -> None:
        self.counts[min(int(seconds * 1000 / BIN_MS), BINS - 1)] += 1

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    def at(self, share: float) -> float | None:
        """Milliseconds that this share of the times does not exceed; None when there are none."""
        count = self.count
        if not count:
            return None
        return round(float(np.searchsorted(np.cumsum(self.counts), share * count) + 1) * BIN_MS, 2)

    def summary(self) -> dict[str, float | int | None]:
        """Number, median, 99th percentile and greatest, in milliseconds."""
        return {"n": self.count, "p50_ms": self.at(0.5), "p99_ms": self.at(0.99), "max_ms": self.at(1.0)}


class KeptTimes:
    """A histogram of the server's metrics that also keeps the times of the present stretch and of all."""

    def __init__(self, histogram: Any) -> None:
        self._histogram = histogram
        self.now, self.all = Times(), Times()

    def observe(self, seconds: float) -> None:
        self._histogram.observe(seconds)
        self.now.add(seconds)
        self.all.add(seconds)

    def turn(self) -> dict[str, float | int | None]:
        """The stretch that is over; a new one begins."""
        over, self.now = self.now, Times()
        return over.summary()


class KeepingMetrics(Metrics):
    """The server's metrics, with exact times."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.step_cpu, self.latency = KeptTimes(self.step), KeptTimes(self.step_cpu), KeptTimes(self.latency)


def memory_kb() -> dict[str, int]:
    """Resident memory of this process: all of it, and what is not of files (RssAnon), in KiB."""
    values = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {"rss_kb": int(values["VmRSS"].split()[0]), "anon_kb": int(values["RssAnon"].split()[0])}


def waited_seconds() -> float | None:
    """How long threads of this process have been ready to run but had no processor; None where the kernel does not tell."""
    try:
        return round(sum(int(path.read_text().split()[1]) for path in Path("/proc/self/task").glob("*/schedstat")) / 1e9, 2)
    except (OSError, IndexError, ValueError):
        return None


def state(service: Service, begun: float) -> dict[str, Any]:
    """What this process holds now, and the stretch that is over."""
    metrics = service.metrics
    dropped = {kind: int(metrics.dropped.labels(kind)._value.get()) for kind in ("silent", "oldest", "ahead")}
    kept = {"step": metrics.step, "step_cpu": metrics.step_cpu, "frame": metrics.latency}
    return {"seconds": round(time.monotonic() - begun, 2), **{name: times.turn() for name, times in kept.items()},
            **{f"{name}_all": times.all.summary() for name, times in kept.items()},
            "received": int(metrics.received._value.get()), "frames": int(metrics.frames._value.get()),
            "late": int(metrics.late._value.get()), "dropped": dropped, "crashes": int(metrics.crashes._value.get()),
            "seats": len(service.seats), "waiting": max([seat.waiting for seat in service.seats], default=0), **memory_kb(),
            "descriptors": len(os.listdir("/proc/self/fd")), "tasks": len(asyncio.all_tasks()),
            "threads": threading.active_count(), "cpu_seconds": round(time.process_time(), 2),
            "waited_seconds": waited_seconds(), "load": round(os.getloadavg()[0], 2)}


def plant_crash(batch: BatchedSessions, seed: int) -> None:
    """Makes the handling of conversations with this seed fail with their fifth frame."""
    start = batch.start

    def starting(slot: int, given: int = 0, *rest: Any) -> None:
        start(slot, given, *rest)
        if given == seed:
            talk = batch._rows[slot].talk
            say, said = talk.say, []

            def failing(*values: Any) -> Any:
                said.append(1)
                if len(said) == 5:
                    raise RuntimeError("planted: this conversation's handling fails")
                return say(*values)

            talk.say = failing

    batch.start = starting


async def tell(service: Service, every: float) -> None:
    """Prints the state every so often."""
    begun = time.monotonic()
    for number in range(1, sys.maxsize):
        await asyncio.sleep(max(begun + number * every - time.monotonic(), 0.0))
        print(json.dumps(state(service, begun)), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = serve.parser()
    parser.add_argument("--random", action="store_true", help="a small random model in place of --model")
    parser.add_argument("--crash-seed", type=cli.at_least(0), metavar="N",
                        help="the handling of a conversation with this seed fails with its fifth frame")
    parser.add_argument("--every", type=cli.number(0.05), default=60.0, metavar="S", help="seconds between two lines")
    tasks = []

    def run(args: Any) -> None:
        def ready(port: int) -> None:
            print(json.dumps({"port": port, "pid": os.getpid()}), flush=True)
            tasks.append(asyncio.get_running_loop().create_task(tell(server.service, args.every)))

        server = serve.server_of(args, KeepingMetrics(), ready, fake_loaded_model() if args.random else None)
        if args.crash_seed is not None:
            plant_crash(server.service.batch, args.crash_seed)
        server.run()

    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
