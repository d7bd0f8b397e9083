"""The sections on promises: each in a form of seconds, and each against something that breaks its promise."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the server's parts are not installed: pip install -e '.[serve]'")
from benchmarks.trust import Options, Promise, isolation, sessions, soak, tested  # noqa: E402
from benchmarks.trust.host import Times  # noqa: E402
from benchmarks.trust.line import drifted, replayed, simulated  # noqa: E402
from benchmarks.trust.tested import Outcome, Row  # noqa: E402
from duplex.errors import InputError  # noqa: E402
from duplex.playout import NETWORK, PlayoutConfig  # noqa: E402
from duplex.testing import fake_loaded_model  # noqa: E402


def test_percentiles_of_binned_times_are_those_of_the_times():
    times, given = Times(), np.random.default_rng(0).gamma(2, 0.01, 2_000)
    for seconds in given:
        times.add(seconds)
    for share in (0.5, 0.99):
        assert times.at(share) == pytest.approx(1000 * np.quantile(given, share, method="inverted_cdf"), abs=0.051)
    assert times.summary()["n"] == 2_000 and Times().at(0.5) is None


def test_a_slope_is_found_among_disturbed_minutes():
    hours = np.arange(120) / 60
    values = 10 + 0.7 * hours + np.random.default_rng(1).normal(0, 0.1, 120)
    values[40:60] += 80  # twenty minutes in which something else ran
    value, low, high = soak.slope(hours, values)
    assert low < 0.7 < high and abs(value - 0.7) < 0.3
    assert soak.slope([0, 1], [0, 1]) is None


def line(minute, step=10.0, anon=400_000, waited=0.0):
    times = {"n": 1500, "p50_ms": step, "p99_ms": 1.5 * step, "max_ms": 2 * step}
    return {"seconds": 60.0 * minute, "waited_seconds": waited * 60 * minute, "load": 9.0,
            "anon_kb": anon, "rss_kb": anon + 100_000, "descriptors": 20, "tasks": 15, "threads": 4,
            "frames": 1500 * minute, "late": 0,
            "dropped": {"silent": 0, "oldest": 0, "ahead": 0},
            **{name + more: times for name in ("step", "step_cpu", "frame") for more in ("", "_all")}}


def record_of(lines, deficit=0):
    return {"benchmark": "soak", "sessions": 2, "lines": lines,
            "clients": {"sent": 9000, "deficit": deficit, "sessions": 3, "errors": []}}


def verdicts(promises):
    return {promise.promise: promise.met for promise in promises}


def test_a_soak_is_judged_by_its_slopes():
    good = verdicts(sessions.soak_promises(record_of([line(n) for n in range(1, 121)]), 120))
    assert len(good) == 7 and set(good.values()) == {True}
    growing = [line(n, step=10 + n / 40, anon=400_000 + 100 * n) for n in range(1, 121)]
    worse = verdicts(sessions.soak_promises(record_of(growing), 120))
    assert [what for what, met in worse.items() if met is False] == [
        "soak: slope of the median step on the wall", "soak: slope of the p99 step on the wall",
        "soak: slope of the median step, processor time", "soak: slope of the p99 step, processor time",
        "soak: slope of the memory without mapped files", "soak: slope of the resident memory"]
    short = verdicts(sessions.soak_promises(record_of([line(n) for n in range(1, 50)]), 120))
    assert [met for what, met in short.items() if "slope" in what] == [None] * 6


@pytest.mark.parametrize("fit, minutes, memory, time", [
    ((0.9, 0.5, 1.3), 120, True, True), ((1.1, 0.5, 1.3), 60, False, False),  # an hour and more: the slope itself
    ((0.9, 0.5, 0.99), 10, True, True), ((0.9, 0.5, 1.3), 10, None, None), ((1.1, 0.5, 1.3), 10, None, None),
    ((1.5, 1.2, 1.8), 10, False, None)])
def test_a_slope_is_judged_by_what_its_run_can_tell(fit, minutes, memory, time):
    fit = dict(zip(("value", "low", "high"), fit, strict=True))
    assert sessions.slope_kept(fit, 1.0, minutes, of_time=False) is memory
    assert sessions.slope_kept(fit, 1.0, minutes, of_time=True) is time
    assert sessions.slope_kept(None, 1.0, minutes, of_time=True) is None


def test_ten_minutes_that_grow_are_told():
    lines = [line(n, step=10 + n / 4, anon=400_000 + 1000 * n) for n in range(1, 11)]
    promises = list(sessions.soak_promises(record_of(lines), 10))
    assert {p.met for p in promises if "step" in p.promise} == {None}
    assert {p.met for p in promises if "memory" in p.promise} == {False}
    assert all("too little to tell" in p.how and p.measured for p in promises if "step" in p.promise)


def test_a_load_is_judged_on_the_wall_only_where_the_server_had_the_machine():
    lines = [line(n) for n in range(1, 11)]
    assert set(verdicts(sessions.load_promises(record_of(lines), "")).values()) == {True}
    assert False in verdicts(sessions.load_promises(record_of(lines, deficit=1), "")).values()
    slow = [line(n, step=50.0) for n in range(1, 11)]
    assert list(verdicts(sessions.load_promises(record_of(slow), "")).values()) == [False, False, True, True]
    busy = [line(n, step=50.0, waited=0.4) for n in range(1, 11)]
    # What is kept in spite of the others is kept; what is not may be theirs.
    assert list(verdicts(sessions.load_promises(record_of(busy), "")).values()) == [None, False, True, True]
    assert list(verdicts(sessions.load_promises(record_of(busy, deficit=1), "")).values()) == [None, False, True, None]
    slopes = verdicts(sessions.soak_promises(record_of([line(n, waited=0.4) for n in range(1, 121)]), 120))
    assert [met for what, met in slopes.items() if "on the wall" in what] == [None, None]
    late = [line(n) | {"late": 40} for n in range(1, 11)]
    assert list(verdicts(sessions.load_promises(record_of(late), "")).values()) == [True, True, False, True]


@pytest.mark.slow
def test_conversations_against_a_server_that_records_itself(tmp_path, monkeypatch):
    """As long as CI can afford; nothing here depends on how fast the machine is."""
    result = soak.measure(2, 3.0, every=0.5, stay=2.0, path=tmp_path / "soak.json", random=True)
    clients = result["clients"]
    assert result["finished"] and clients["sessions"] >= 2 and clients["sent"] > 0
    assert clients["deficit"] == clients["sent"] - clients["received"] and result["lines"][-1]["step_all"]["n"] > 0
    assert {"anon_kb", "descriptors", "tasks", "waited_seconds", "step_cpu", "frame"} <= result["lines"][-1].keys()
    options = Options(soaks=(tmp_path / "soak.json",))
    monkeypatch.setattr(sessions, "rate", lambda options: (2, "tried"))
    judged = list(sessions.run(options))
    assert len(judged) == 5 and all(isinstance(promise, Promise) for promise in judged)
    monkeypatch.setattr(sessions, "rate", lambda options: (4, "tried"))
    assert [promise.met for promise in sessions.run(options) if promise.promise.startswith("4 sessions")] == [None]
    (tmp_path / "soak.json").write_text("{}")
    with pytest.raises(InputError, match="not a record"):
        list(sessions.run(options))


def test_isolation_is_found_and_its_breach_too(monkeypatch):
    model = fake_loaded_model()
    monkeypatch.setattr(isolation, "load_model", lambda *_, **__: model)
    monkeypatch.setattr(isolation, "SLOTS", 2)
    options = Options(short=True)
    assert [promise.met for promise in isolation.run(options)] == [True, True, True]
    start = isolation.BatchedSessions.start

    def leaking(self, slot, seed=0, *rest, **more):
        start(self, slot, seed + slot, *rest, **more)

    monkeypatch.setattr(isolation.BatchedSessions, "start", leaking)
    assert [promise.met for promise in isolation.run(options)] == [False, False, True]


def test_lines_are_played_as_they_came():
    good, bad = simulated(20, 1, PlayoutConfig(), up=False), simulated(20, 1, PlayoutConfig(memory_seconds=0), up=True)
    assert good.underrun_share < bad.underrun_share
    even = replayed([5.0 + 0.08 * n for n in range(100)], NETWORK)
    assert even.underrun_share == 0 and even.delay_ms == pytest.approx(60, abs=3) and not len(even.back_after(20, 0))
    late = [5.0 + 0.08 * n + (0.2 if n >= 50 else 0) for n in range(100)]
    assert replayed(late, NETWORK).underrun_share > 0.01
    worst, buffer = drifted(60, 200, PlayoutConfig())
    assert worst < 40 and buffer.counters.underrun == 0


def test_a_promise_held_by_tests_is_what_they_say():
    row = Row("it holds", "always", ("tests/a.py::test_one", "tests/a.py::test_two"))
    passed, skipped, failed = (Outcome("tests/a.py::test_one", status, "why") for status in ("passed", "skipped", "failed"))
    assert tested.judged("access", row, [passed, skipped]).met is True
    assert tested.judged("access", row, [skipped]).met is None and "why" in tested.judged("access", row, [skipped]).how
    assert tested.judged("access", row, []).met is None
    assert tested.judged("access", row, [passed, failed]).met is False


def test_the_tests_that_promises_name_are_there():
    from benchmarks.record import ROOT
    from benchmarks.trust import access, network

    for row in (*access.ROWS, *network.DEVICES):
        for test in row.tests:
            path, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), test
