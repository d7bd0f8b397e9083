"""Runs of the training command in processes that share the work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.forked import start

LIMIT = 400  # seconds after which a run counts as standing still


def train_together(out: Path, arguments: Sequence[str], world: int = 1, status: int = 0, command: str = "fit") -> str:
    """train.fit, or another command, with ``arguments`` and --out; what was said. Fails when a process ends otherwise or not
    at all."""
    out.mkdir(parents=True, exist_ok=True)
    running = start([*arguments, "--out", str(out)], out / "said.log", world, command)
    for process in running:
        process.join(LIMIT)
    said = "\n".join(path.read_text() for path in sorted(out.glob("said.log*")))
    codes = [process.exitcode for process in running]
    for process in running:
        process.kill()
    assert codes == [status] * world, said[-6000:]
    return said
