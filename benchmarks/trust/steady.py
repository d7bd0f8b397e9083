"""Whether the machine kept time while something ran on it: one that stood still says nothing about a server's promptness."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

LATE_SECONDS = 0.25
"""A sleeper that the machine wakes later than this has seen it stand still; a busy but sound one is late by milliseconds."""
STOLEN_SHARE = 0.15
"""Of the processors' time, taken by other guests of the same host."""

WATCH = """
import sys, threading, time
worst = 0.0
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
before = time.monotonic()
print(flush=True)
while not over.is_set():
    time.sleep(0.01)
    now = time.monotonic()
    before, worst = now, max(worst, now - before - 0.01)
print(worst)
"""


def stolen_ticks() -> tuple[int, int]:
    """Ticks that the host gave to others, and all ticks; zeros where the system does not tell."""
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return 0, 0
    return fields[7], sum(fields)


class Steady:
    """A context that watches the machine from a process of its own; afterwards `kept`, and `said` in words."""

    late_seconds = 0.0
    stolen_share = 0.0

    def __enter__(self) -> Steady:
        self.watcher = subprocess.Popen([sys.executable, "-S", "-c", WATCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.watcher.stdout.readline()
        self._ticks, self._begun = stolen_ticks(), time.monotonic()
        return self

    def __exit__(self, *_) -> None:
        seen, _ = self.watcher.communicate("", timeout=60)
        self.late_seconds = float(seen)
        stolen, ticks = (after - before for after, before in zip(stolen_ticks(), self._ticks, strict=True))
        self.stolen_share = stolen / max(ticks, 1)

    @property
    def kept(self) -> bool:
        return self.late_seconds <= LATE_SECONDS and self.stolen_share <= STOLEN_SHARE

    @property
    def said(self) -> str:
        return f"the machine stood still for up to {self.late_seconds:.2f} s, and {100 * self.stolen_share:.0f} % of its " \
               "processor time went to others"
