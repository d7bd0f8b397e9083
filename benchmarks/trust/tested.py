"""Promises that tests of the repository hold: they are run, not repeated."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import ROOT
from benchmarks.trust import Promise


@dataclass(frozen=True)
class Row:
    """A promise and the tests that hold it, as "tests/unit/test_server.py::test_name"; all their parameters count."""

    promise: str
    limit: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """How one test (with one set of parameters) ended."""

    test: str
    status: str
    """"passed", "failed" or "skipped"."""
    why: str = ""


def outcomes(tests: Sequence[str]) -> list[Outcome]:
    """Runs the tests in one process of their own. Raises RuntimeError when pytest itself fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests],
                              cwd=ROOT, capture_output=True, text=True,
                              env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"})
        if not report.exists():
            raise RuntimeError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-300:]}")
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    return [_outcome(case) for case in cases]


def _outcome(case: ElementTree.Element) -> Outcome:
    name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '').partition('[')[0]}"
    for kind, status in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = case.find(kind)
        if found is not None:
            return Outcome(name, status, (found.get("message") or "").splitlines()[0][:150] if found.get("message") else "")
    return Outcome(name, "passed")


def run(area: str, rows: Sequence[Row]) -> Iterator[Promise]:
    """A promise for each row; one whose tests were all left out is "not measured"."""
    found = outcomes(sorted({test for row in rows for test in row.tests}))
    for row in rows:
        yield judged(area, row, [outcome for outcome in found if outcome.test in row.tests])


def judged(area: str, row: Row, mine: Sequence[Outcome]) -> Promise:
    """The promise that these outcomes make of a row."""
    how = ", ".join(f"`{test}`" for test in row.tests)
    passed = [outcome for outcome in mine if outcome.status == "passed"]
    failed = [outcome for outcome in mine if outcome.status == "failed"]
    skipped = [outcome for outcome in mine if outcome.status == "skipped"]
    if failed:
        told = f"{len(failed)} of {len(mine)} cases failed: {failed[0].test}: {failed[0].why}"
        return Promise(area, row.promise, row.limit, told, False, how)
    if not passed:
        return Promise(area, row.promise, row.limit, "", None, f"left out: {skipped[0].why if skipped else 'not found'} ({how})")
    left = f", {len(skipped)} left out" if skipped else ""
    return Promise(area, row.promise, row.limit, f"{len(passed)} cases passed{left}", True, how)
