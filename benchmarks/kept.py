"""Parts of a bench that are done stay done: each is kept in a folder with the key of all that its numbers depend on.

A bench that is stopped goes on where it was; one that is started again with another model, seed, number of items or another way
to score makes everything anew. Keys are of contents, not commits: the model's files, the sources that make and score items.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import record
from train.files import replace_file

_SOURCES = ("benchmarks/*.py", "duplex/*.py", "duplex/model/*.py", "duplex/metrics/*.py", "duplex/fast/**/*",
            "train/corpus/**/*.py")
_NOT = ("benchmarks/report.py", "benchmarks/plots.py", "benchmarks/speed_page.py", "benchmarks/bench.py", "benchmarks/latency.py",
        "benchmarks/profile.py", "benchmarks/kept.py")
"""What can change a number of a kept part, and what only shows numbers or is never kept."""


@functools.cache
def fingerprint(folder: Path) -> str:
    """A hash of a model's folder: names and contents of its files, its words for people left out."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix not in (".md", ".png", ".txt")):
        total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:24]


@functools.cache
def sources() -> str:
    """A hash of the sources that make items and scores."""
    total = hashlib.sha256()
    left_out = {record.ROOT / name for name in _NOT}
    for path in sorted({path for pattern in _SOURCES for path in record.ROOT.glob(pattern)} - left_out):
        if path.suffix in (".py", ".cpp", ".h"):
            total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:24]


def key_of(**what: Any) -> str:
    """A key of everything that a part depends on; what JSON cannot say counts by its text."""
    text = json.dumps(what | {"sources": sources()}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Kept:
    """Parts of a bench in a folder; without a folder nothing is kept. ``what`` is what all parts depend on."""

    def __init__(self, folder: str | Path | None, **what: Any):
        self.folder = None if folder is None else Path(folder)
        self.what = what
        self.measured: dict[str, str] = {}
        """When and at which commit the parts were measured that were not measured now."""

    def get(self, name: str, make: Callable[[], dict], anew: bool = False, **what: Any) -> dict:
        """The part of that name if it is there, else what ``make`` gives, which is then kept. Infinite numbers stay.

        ``anew``: make it whatever is there.
        """
        if self.folder is None:
            return make()
        path = self.folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.json"
        key = key_of(name=name, **self.what, **what)
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["key"] == key and not anew:
                self.measured[name] = known["measured"]
                return known["value"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not there, or of no use: it is made anew
        value = make()
        when = f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, commit {record.commit()}"
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda part: part.write_text(json.dumps({"key": key, "measured": when, "value": value}),
                                                        encoding="utf-8"))
        return value
