"""Coverage-guided fuzzing of one reader, with atheris (libFuzzer): inputs that reach new code are kept and changed further.

    python -m benchmarks.trust.fuzz pages --seconds 60 --out out/trust/fuzz

`fuzz` runs it in a process of its own, since the fuzzer ends its process and an input may crash a foreign decoder. What it finds
lies in the folder afterwards: `pages-crash-…` and its like, the inputs kept in `pages/`, and what the fuzzer said in `pages.log`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HANG_SECONDS = 20
"""By the clock, on a machine that others use, too; the limit of a call is `targets.CALL_SECONDS` of the processor."""
MEMORY_MB = 3_000
"""Of the whole process, most of which is the framework."""
INSTRUMENTED = ("infer.server", "duplex", "train", "tomllib")


@dataclass(frozen=True)
class Fuzzed:
    """What became of one target."""

    name: str
    seconds: float
    executions: int
    edges: int
    """Branches of the instrumented modules that were reached."""
    first_edges: int
    """Of these, by the seeds alone."""
    kept: int
    """Inputs that reached new ones."""
    slowest_ms: float
    findings: tuple[str, ...]
    """Files with inputs that broke a promise."""
    said: str
    """Last line of an error, if there was one."""


def fuzz(name: str, seconds: float, out: Path, seed: int = 0) -> Fuzzed:
    """Fuzzes a target for so long in a process of its own."""
    corpus = out / name
    corpus.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"{name}-*"):
        old.unlink()
    log, slowest = out / f"{name}.log", out / f"{name}-slowest.json"
    command = [sys.executable, "-m", "benchmarks.trust.fuzz", name, "--seconds", str(seconds), "--out", str(out),
               "--seed", str(seed)]
    with log.open("w") as file:
        status = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=file, timeout=seconds + 300).returncode
    text = log.read_text(errors="replace")
    counts = [(int(a), int(b)) for a, b in re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)", text)]
    begun = re.search(r"INITED cov: (\d+)", text)
    executions = re.search(r"number_of_executed_units: (\d+)", text) or re.search(r"Done (\d+) runs", text)
    found = tuple(sorted(path.name for path in out.glob(f"{name}-*") if path != slowest))
    errors = re.compile(r"(\w+\.)*\w*(Error|Exception|Broken|Panic\w*):|.*ERROR: libFuzzer")
    said = [line for line in text.splitlines() if errors.match(line)]
    ended = "" if status == 0 or found else f"the fuzzer ended with status {status}"
    return Fuzzed(name, seconds, int(executions[1]) if executions else 0, counts[-1][0] if counts else 0,
                  int(begun[1]) if begun else 0, counts[-1][1] if counts else 0,
                  json.loads(slowest.read_text())["ms"] if slowest.exists() else 0.0, found, (said or [ended])[-1])


def main() -> None:
    """The process of one target: never returns."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trust.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        from benchmarks.trust.targets import TARGETS, Timed
    target = TARGETS[args.target]
    corpus = args.out / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
        target.call(data)
    words = args.out / f"{target.name}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words if len(word) <= 60))
    timed, slowest = Timed(target), args.out / f"{target.name}-slowest.json"
    worst = 0.0

    def once(data: bytes) -> None:
        nonlocal worst
        timed(data)
        if timed.slowest > worst:
            worst = timed.slowest
            slowest.write_text(json.dumps({"ms": round(1000 * worst, 2)}))

    atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={max(1, round(args.seconds))}", f"-seed={args.seed + 1}",
                   f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={target.largest}", f"-dict={words}",
                   f"-artifact_prefix={args.out}/{target.name}-", "-print_final_stats=1", "-close_fd_mask=0"], once)
    atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(chr(byte) if 32 < byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in word.encode())


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
