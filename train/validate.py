"""Look for faults in a set of recordings and compare its turn-taking with human conversations.

    python -m train.validate DIR [--report report.jsonl] [--system right] [--workers 2]

DIR is read as by train.prepare. Every recording is measured: swapped, leaking or identical channels, clipping, silence, level,
words outside speech, shifted or drifted timings, overlap, speech without words. The exit status is 1 when more than
5 % of the recordings are unusable or faulty.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from duplex.errors import InputError
from duplex.metrics.turntaking import pooled, turn_taking_statistics
from train import cli
from train.files import replace_file
from train.own.checks import Fault, faults, measure
from train.own.layout import Item, find_items
from train.own.options import add_reading, reading_of
from train.own.recording import Reading, load
from train.own.speech import segments, speech_mask

PUBLISHED = {"Fisher (people)": (51.1, 6.4, 4.2, 3.3), "Moshi": (50.8, 7.0, 4.5, 4.1), "dGSLM": (41.4, 13.8, 10.7, 6.1)}
"""Seconds a minute of inter-pausal units, pauses, gaps and overlaps (arXiv:2410.00037, section 5.6)."""
COLUMNS = ("ipu", "pause", "gap", "overlap")
TOLERATED = 0.05
"""Share of unusable or faulty recordings from which the exit status is 1."""


@dataclass(frozen=True)
class Finding:
    """What is known of one recording: why it cannot be used, or its figures and faults."""

    name: str
    path: str
    rejected: str | None = None
    faults: tuple[Fault, ...] = ()
    measures: dict = field(default_factory=dict)
    turns: dict = field(default_factory=dict)
    digest: str = ""

    def to_dict(self) -> dict:
        """One line of the report."""
        if self.rejected:
            return {"name": self.name, "path": self.path, "rejected": self.rejected}
        listed = [{"kind": f.kind, "detail": f.detail, **({"note": True} if f.note else {})} for f in self.faults]
        return {"name": self.name, "path": self.path, "faults": listed, "measures": self.measures}


def examine(item: Item, reading: Reading) -> Finding:
    """Measures one recording; never raises for a bad one."""
    try:
        recording = load(item, reading)
    except InputError as error:
        return Finding(item.name, str(item.audio), rejected=str(error))
    figures = measure(recording)
    speech = [segments(speech_mask(track)) for track in recording.pcm]
    turns = turn_taking_statistics(*speech, recording.seconds)
    digest = hashlib.sha256(recording.pcm.tobytes()).hexdigest()
    return Finding(item.name, str(item.audio), None, tuple(faults(figures)), figures.to_dict(), turns, digest)


def validate(items: Sequence[Item], reading: Reading, workers: int = 1) -> list[Finding]:
    """Findings in the order of the items; a recording that was there before is a fault of the second."""
    job = partial(examine, reading=reading)
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            found = list(_progress(pool.map(job, items, chunksize=4), len(items)))
    else:
        found = list(_progress(map(job, items), len(items)))
    first: dict[str, str] = {}
    result = []
    for finding in found:
        earlier = first.setdefault(finding.digest, finding.name) if finding.digest else finding.name
        if earlier != finding.name:
            again = Fault("duplicate", f"the same samples as {earlier}")
            finding = Finding(**{**vars(finding), "faults": (*finding.faults, again)})
        result.append(finding)
    return result


def _progress(findings: Iterable[Finding], total: int) -> Iterable[Finding]:
    for number, finding in enumerate(findings, 1):
        if sys.stderr.isatty():
            print(f"\r{number}/{total} ", end="\r" if number == total else "", file=sys.stderr, flush=True)
        yield finding


def table(findings: Sequence[Finding]) -> str:
    """The report of the set: every faulty recording, the counts of the kinds, turn-taking beside published figures."""
    lines = []
    for finding in findings:
        if finding.rejected:
            lines.append(f"{finding.name}: unusable: {finding.rejected}")
        lines += [f"{finding.name}: {'note: ' if fault.note else ''}{fault.kind}: {fault.detail}" for fault in finding.faults]
    rejected, bad = (sum(bool(f.rejected) for f in findings), sum(_faulty(f) for f in findings))
    seconds = sum(f.measures.get("seconds", 0.0) for f in findings)
    words = [sum(f.measures["words"][side] for f in findings if f.measures) for side in (0, 1)]
    lines.append(f"{len(findings)} recordings, {seconds / 3600:.2f} h, {words[0]} words of the system, {words[1]} of the user; "
                 f"{rejected} unusable, {bad} faulty")
    kinds = Counter(fault.kind for finding in findings for fault in finding.faults)
    lines += [f"  {kind}: {count}" for kind, count in kinds.most_common()]
    turns = [f.turns for f in findings if f.turns]
    if turns:
        lines += ["", f"{'seconds a minute':<18}{'speech (IPU)':>13}{'pause':>9}{'gap':>9}{'overlap':>9}"]
        mine = pooled(turns)
        rows = {"this set": tuple(mine[c]["seconds_per_minute"] for c in COLUMNS), **PUBLISHED}
        lines += [f"{name:<18}" + "".join(f"{value:>{width}.1f}" for value, width in zip(row, (13, 9, 9, 9), strict=True))
                  for name, row in rows.items()]
        times = {c: mine[c]["per_minute"] for c in (*COLUMNS, "turn")}
        lines.append("this set, a minute: " + ", ".join(f"{value:.1f} {name}s" for name, value in times.items()))
    return "\n".join(lines)


def _faulty(finding: Finding) -> bool:
    return any(not fault.note for fault in finding.faults)


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("validate", __doc__)
    parser.add_argument("recordings", type=Path, help="folder or manifest")
    parser.add_argument("--report", type=Path, help="write every figure of every recording, one JSON object a line")
    parser.add_argument("--workers", type=int, default=1)
    add_reading(parser)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> int:
    """Prints the report; the exit status is 1 when more than 5 % of the recordings are unusable or faulty."""
    reading = reading_of(args, need_words=False)
    findings = validate(find_items(args.recordings), reading, args.workers)
    print(table(findings))
    if args.report:
        text = "".join(json.dumps(f.to_dict()) + "\n" for f in findings)
        replace_file(args.report, lambda part: part.write_text(text))
    return 1 if sum(bool(f.rejected) or _faulty(f) for f in findings) > TOLERATED * len(findings) else 0


if __name__ == "__main__":
    raise SystemExit(main())
