"""Sessions: as many as this machine is rated for, for ten minutes; and a soak of two hours.

The rated number is the greatest of 1, 2, 4, ... whose step is short enough: a frame is answered within two steps, and these are
to fit into 80 ms with a tenth to spare. The step is measured in processor time with all rows due: a busy machine changes that
little.

A machine that is busy with other programs makes times on the wall longer, never shorter. Where the server's threads waited for
a processor for more than a tenth of the time, a limit on such a time that is kept nevertheless counts as kept, one that is not
kept says nothing, and neither does a slope or a difference; the processor time of a step is judged in any case.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.trust import Options, Promise, soak
from benchmarks.trust.load import voice
from benchmarks.trust.steady import Steady
from duplex.checkpoint import load_model
from duplex.errors import InputError
from infer.server.rows import BatchedSessions

AREA = "sessions"
MOST = 64
STEP_MS, MISSED_SHARE, MS_AN_HOUR, PERCENT_AN_HOUR = 64.0, 0.001, 1.0, 1.0
BUSY_SHARE = 0.1
HOUR = 60.0  # minutes
RATED_STEP_MS = 0.9 * 80 / 2


def run(options: Options) -> Iterator[Promise]:
    """The long form: ten minutes at the rated number, a soak. The short one: ten minutes of two conversations for all."""
    if options.short and not options.soaks:
        with Steady() as machine:
            result = soak.measure(2, 60 * options.length(10, 10), model=options.model, every=10.0, stay=60.0,
                                  path=options.out / "soak.json", seed=options.seed)
        stood_still = "" if machine.kept else machine.said
        yield from load_promises(result, "not looked for in the short form", stood_still)
        yield from soak_promises(result, 10.0, stood_still)
        return
    rated, tried = rate(options)
    yield Promise(AREA, "conversations that this machine is rated for", "≥ 1", str(rated), rated >= 1, tried)
    if options.soaks:
        if all(_read(path)["sessions"] != rated for path in options.soaks):
            yield Promise(AREA, f"{rated} sessions for ten minutes", "as below", "", None,
                          f"no run with so many; python -m benchmarks.trust.soak --minutes 10 --sessions {rated}")
        for result in map(_read, options.soaks):
            yield from load_promises(result, "")
            if result["wanted_seconds"] > 3600:
                yield from soak_promises(result, 120.0)
        return
    rated = max(rated, 1)
    yield from load_promises(soak.measure(rated, 600.0, model=options.model, every=10.0, path=options.out / "rated.json",
                                          seed=options.seed), tried)
    minutes = options.length(120, 10)
    yield from soak_promises(soak.measure(min(2, rated), 60 * minutes, model=options.model, path=options.out / "soak.json",
                                          seed=options.seed), 120.0)


def rate(options: Options) -> tuple[int, str]:
    """The greatest number of conversations whose step is short enough, 0 if not even one; and what was tried, in words."""
    model, said = load_model(options.model, backend="auto"), voice().astype(np.float32) / 32768
    rated, sessions, tried = 0, 1, []
    while sessions <= MOST:
        batch, times = BatchedSessions(model, sessions), []
        for slot in range(sessions):
            batch.start(slot, slot)
        for frame in said[:60]:
            begun = time.thread_time()
            batch.step(dict.fromkeys(range(sessions), frame))
            times.append(1000 * (time.thread_time() - begun))
        p99 = float(np.percentile(times[10:], 99))
        tried.append(f"{sessions}: {p99:.1f} ms")
        if p99 > RATED_STEP_MS:
            break
        rated, sessions = sessions, 2 * sessions
    return rated, f"processor time of a step with all rows due, p99 of 50, at most {RATED_STEP_MS:g} ms: " \
                  + ", ".join(tried)


def starved(lines: Sequence[dict]) -> str:
    """How long the server's threads waited for a processor, where that was too long to judge times on the wall; else ""."""
    if not lines or lines[-1].get("waited_seconds") is None:
        return ""
    first, last = lines[0], lines[-1]
    seconds = last["seconds"] - first["seconds"]
    waited = last["waited_seconds"] - first["waited_seconds"]
    if not seconds or waited / seconds <= BUSY_SHARE:
        return ""
    return f"threads of the server were ready to run but waited for a processor {waited / seconds:.2f} s of every second, at a " \
           f"load of {last['load']:g}"


def load_promises(result: dict, tried: str, stood_still: str = "") -> Iterator[Promise]:
    """Step, missed frames and deficit of a run."""
    last, clients = result["lines"][-1], result["clients"]
    busy = starved(result["lines"]) or stood_still
    sessions, minutes = result["sessions"], last["seconds"] / 60
    how = f"{sessions} conversations in real time for {minutes:.1f} minutes, server and clients in two processes" + (
        f"; {tried}" if tried else "")
    wall, cpu = last["step_all"], last["step_cpu_all"]
    yield unless(busy, Promise(AREA, f"{sessions} sessions: step, p99 on the wall", f"≤ {STEP_MS:g} ms",
                                f"{wall['p99_ms']} ms (p50 {wall['p50_ms']}, {wall['n']} steps)", wall["p99_ms"] <= STEP_MS, how))
    yield Promise(AREA, f"{sessions} sessions: step, p99 of processor time", f"≤ {STEP_MS:g} ms",
                  f"{cpu['p99_ms']} ms (p50 {cpu['p50_ms']}, {cpu['n']} steps)", cpu["p99_ms"] <= STEP_MS, how)
    dropped = sum(last["dropped"].values())
    share = (last["late"] + dropped) / max(last["frames"] + dropped, 1)
    yield unless(busy, Promise(AREA, f"{sessions} sessions: frames missed (answered after 80 ms, or let go)", "≤ 0.1 %",
                                f"{100 * share:.3f} % of {last['frames'] + dropped}", share <= MISSED_SHARE, how))
    deficit = clients["deficit"]
    yield unless(busy, Promise(AREA, f"{sessions} sessions: frame deficit", "0", f"{deficit} of {clients['sent']} frames in "
                                f"{clients['sessions']} conversations", deficit == 0 and not clients["errors"], how))


def soak_promises(result: dict, promised_minutes: float, stood_still: str = "") -> Iterator[Promise]:
    """Slopes of latency and memory."""
    lines, slopes = result["lines"], soak.judged(result["lines"])
    minutes = lines[-1]["seconds"] / 60 if lines else 0.0
    whole = minutes >= 0.99 * promised_minutes
    how = f"{result['sessions']} conversations for {minutes:.0f} of {promised_minutes:g} minutes; Theil and Sen's slope over " \
          "the server's lines, without the first quarter (at most 15 minutes); brackets: 95 %" + (
              "" if promised_minutes >= HOUR else "; so short a run is judged by the brackets")
    busy = starved(lines) or stood_still
    for name, what, limit in (("step_p50_ms", "median step on the wall", MS_AN_HOUR),
                              ("step_p99_ms", "p99 step on the wall", MS_AN_HOUR),
                              ("step_cpu_p50_ms", "median step, processor time", MS_AN_HOUR),
                              ("step_cpu_p99_ms", "p99 step, processor time", MS_AN_HOUR),
                              ("anon_percent", "memory without mapped files", PERCENT_AN_HOUR),
                              ("rss_percent", "resident memory", PERCENT_AN_HOUR)):
        fit, unit = slopes[name], "%" if "percent" in name else "ms"
        told = "" if fit is None else f"{fit['value']:+.3f} {unit}/h [{fit['low']:+.3f}, {fit['high']:+.3f}]"
        met = slope_kept(fit, limit, promised_minutes, of_time=unit == "ms") if whole else None
        reason = "" if met is not None else "the run is shorter than promised: " if not whole else "too little to tell: "
        promise = Promise(AREA, f"soak: slope of the {what}", f"< {limit:g} {unit}/h", told, met, reason + how)
        compared = unit == "ms" and ("cpu" not in name or promised_minutes < HOUR)
        yield unless(busy, promise, relative=True) if compared else promise
    if lines:
        kept = soak.settled(lines) or lines
        grown = [f"{kept[0][name]} to {kept[-1][name]} {name}" for name in ("descriptors", "tasks", "threads")]
        level = all(kept[-1][name] <= kept[0][name] + 1 for name in ("descriptors", "tasks", "threads"))
        yield Promise(AREA, "soak: descriptors, tasks and threads do not grow", "0", ", ".join(grown), level, how)


def slope_kept(fit: dict | None, limit: float, minutes: float, of_time: bool) -> bool | None:
    """Whether a slope stays below a limit per hour; None where the run cannot tell. `minutes`: how long it was to last.

    Of an hour and more the slope itself judges: kept if it is below the limit, broken if not.

    Of less, the slope is many times what was seen to change, so its bracket of 95 % judges: kept if all of it is below the limit,
    broken if none of it is, and else not to be told. A time is never broken there, only not to be told, since what grew within
    minutes is most likely what else the machine did; memory is this process's own.
    """
    if fit is None:
        return None
    if minutes >= HOUR:
        return fit["value"] < limit
    if fit["high"] < limit:
        return True
    return False if fit["low"] >= limit and not of_time else None


def unless(busy: str, promise: Promise, relative: bool = False) -> Promise:
    """The promise; where the machine was busy, not judged if it was missed or compares two times, which load can also hide."""
    if not busy:
        return promise
    if promise.met and not relative:
        return replace(promise, how=f"kept although {busy}; {promise.how}")
    return replace(promise, measured="", met=None, how=f"the machine was too busy to tell: {busy}; it gave {promise.measured}; "
                   f"{promise.how}")


def _read(path: Path) -> dict:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["benchmark"] != "soak" or not result["lines"]:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a record of benchmarks.trust.soak, or one without a line") from None
    return result
