"""The judge of the live tests: a machine that stands still, and what becomes of a failure on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.trust.steady import Steady

LIVE = Path(__file__).resolve().parents[1] / "live"
ROOT = LIVE.parents[1]

FAILING = """
import pytest
@pytest.mark.live
def test_that_fails(tmp_path):
    with open({log!r}, "a") as log:
        print(tmp_path, file=log)
    assert {passes}
"""


def stopped(steady: Steady, seconds: float) -> None:
    os.kill(steady.watcher.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(steady.watcher.pid, signal.SIGCONT)


def test_a_machine_that_stands_still_is_seen():
    with Steady() as machine:
        stopped(machine, 0.6)
    assert not machine.kept and machine.late_seconds > 0.4, machine.said
    with Steady() as machine:
        time.sleep(0.1)
    assert 0 <= machine.late_seconds and 0 <= machine.stolen_share <= 1


def verdict(tmp_path, kept: bool, passes: str = "False") -> tuple[str, int]:
    """What pytest says of a failing live test, and how often it ran."""
    folder = tmp_path / f"{kept}{len(passes)}"
    folder.mkdir()
    (folder / "hooks.py").write_text((LIVE / "conftest.py").read_text())
    (folder / "conftest.py").write_text(f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(folder)!r}]\n"
                                        "from benchmarks.trust import steady\n"
                                        f"steady.Steady.kept = property(lambda self: {kept})\n"
                                        "from hooks import pytest_runtest_protocol\n")
    (folder / "test_it.py").write_text(FAILING.format(log=str(folder / "log"), passes=passes))
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = live\n")
    ran = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(folder)], cwd=folder,
                         capture_output=True, text=True)
    seen = (folder / "log").read_text().split()
    assert len(set(seen)) == len(seen)  # each attempt had a folder of its own
    return ran.stdout, len(seen)


def test_a_failure_counts_where_the_machine_kept_time_and_only_there(tmp_path):
    said, runs = verdict(tmp_path, kept=True)
    assert "1 failed" in said and runs == 1
    said, runs = verdict(tmp_path, kept=False)
    assert "1 skipped" in said and "not to be judged" in said and runs == 3
    said, runs = verdict(tmp_path, kept=False, passes="True")
    assert "1 passed" in said and runs == 1
