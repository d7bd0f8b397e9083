"""The promises of a service, each with the limit it was given and what was measured.

    python -m benchmarks.trust [--short] [--only SECTION …] [--out out/trust]

A section is a module of this package with `AREA`, its name in the report, and `run(options)`, which yields a `Promise` for each
line that it has tried. `SECTIONS` lists them in the order of the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SECTIONS = {
    "sessions": "sessions", "isolation": "isolation", "faults": "faults", "network": "network and devices", "echo": "echo",
    "parsers": "parsers", "checkpoints": "checkpoints", "training": "training", "access": "access", "supply": "supply chain"}
"""Module of this package: its area."""


@dataclass(frozen=True)
class Options:
    """How a section is run."""

    short: bool = False
    """Minutes in place of hours: what a continuous check can afford. The report says so."""
    out: Path = Path("out/trust")
    """Folder that exists, for whatever a section wants to keep."""
    model: str = "tiny"
    """The model behind the server: a name, folder or hub id that `duplex.checkpoint.load_model` takes."""
    minutes: float | None = None
    """Length of a section's longest run (soak, fuzzing); None: as promised, or as short as `short` asks."""
    seed: int = 0
    soaks: tuple[Path, ...] = ()
    """Records of `benchmarks.trust.soak` that were made before, to be judged in place of new ones."""

    def length(self, promised: float, short: float) -> float:
        """Minutes of a run that is promised to last so long."""
        if self.minutes is not None:
            return self.minutes
        return short if self.short else promised


@dataclass(frozen=True)
class Promise:
    """One line of the report."""

    area: str
    promise: str
    """What is promised, in words."""
    limit: str
    """The bound, as "≤ 64 ms"."""
    measured: str
    """What was found, with its unit and how much was tried: "12.3 ms (7,500 steps)"; "" when nothing was measured."""
    met: bool | None
    """None: not measured here, for the reason that `how` gives."""
    how: str
    """How it was measured, or why it could not be."""
