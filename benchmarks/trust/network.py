"""Network and devices: jitter and stalls in both directions, clocks that differ, a device that goes and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np

from benchmarks.trust import Options, Promise, tested
from benchmarks.trust.line import BAD, Played, drifted, replayed, shaped, simulated
from benchmarks.trust.load import Host, Tally, converse, hosting
from benchmarks.trust.sessions import starved, unless
from benchmarks.trust.tested import Row
from duplex.playout import NETWORK, PlayoutConfig

AREA = "network and devices"
WARM_SECONDS = 60.0
_LINE = f"{BAD.delay_ms:g} ± {BAD.jitter_ms:g} ms, {100 * BAD.stall_share:g} % of the packets stalled by {BAD.stall_ms:g} ms"
DEVICES = (
    Row("a device is unplugged and comes back: the demo says so, the model goes on hearing silence, both are heard again", "said",
        ("tests/live/test_microphone.py::test_a_device_that_goes_and_comes_back_is_said_and_the_conversation_goes_on",)),
    Row("the same without a sound card, by the sample", "fed and heard",
        ("tests/unit/test_live.py::test_a_microphone_that_goes_and_comes_back",)))


def run(options: Options) -> Iterator[Promise]:
    """Simulated lines and clocks, a real server behind a shaped line, and the tests with a sound server."""
    seconds, seeds = (120.0, 2) if options.short else (300.0, 5)
    for name, up, config in (("from the server to the client", False, PlayoutConfig()), ("in both directions", True, NETWORK)):
        runs = [simulated(seconds, options.seed + seed, config, up) for seed in range(seeds)]
        yield from _judged(name, runs, f"simulated, {seeds} runs of {seconds:g} s from a cold start, real playout buffer with a "
                                       f"cap of {config.cap_ms:g} ms")
    minutes = options.length(5.0, 0.5)
    yield _real(60 * minutes, options.seed)
    hour = 360.0 if options.short else 3600.0
    for ppm in (200, -200):
        worst, buffer = drifted(hour, ppm, PlayoutConfig())
        clean = buffer.counters.dropped == buffer.counters.underrun == 0
        told = f"{worst:.1f} ms off the wanted, {buffer.counters.dropped} samples dropped, {buffer.counters.underrun} missing"
        yield Promise(AREA, f"a clock that is off by {ppm:+d} ppm for {hour / 60:g} minutes: fill within ± 40 ms, no hard drop",
                      "≤ 40 ms, 0", told, worst <= 40 and clean, "simulated time, chunks of 80 ms, pulls of 20 ms")
    yield from tested.run(AREA, DEVICES)


def _judged(name: str, runs: list[Played], how: str) -> Iterator[Promise]:
    shares = [100 * one.underrun_share for one in runs]
    told = f"{np.mean(shares):.2f} % on average, {max(shares):.2f} % in the worst run; mean delay " \
           f"{np.mean([one.delay_ms for one in runs]):.0f} ms, {np.mean([one.dropped_ms for one in runs]):.0f} ms dropped a run"
    yield Promise(AREA, f"{_LINE}, {name}: underrun", "≤ 0.5 % of the time", told, max(shares) <= 0.5, how)
    back = np.concatenate([one.back_after(20.0, WARM_SECONDS) for one in runs])
    promise, limit = f"{name}: after a stall the delay is back within 20 ms of what is wanted", "≤ 5 s"
    if not len(back):
        yield Promise(AREA, promise, limit, "", None, "no stall late enough in a short run")
        return
    wander = max(np.ptp(one.log[int(100 * WARM_SECONDS) :, 2]) for one in runs)
    yield Promise(AREA, promise, limit, f"{back.max():.1f} s at most, {np.percentile(back, 95):.1f} s for 95 % of {len(back)} "
                  "stalls", bool(back.max() <= 5.0), f"{how}; after the first minute; what is wanted itself moved by at most "
                  f"{wander:.0f} ms")


def _real(seconds: float, seed: int) -> Promise:
    """A real client and server with a bad line between them, the frames' arrivals played by a buffer afterwards."""
    lines: list[dict] = []
    tally, arrivals = Tally(), []

    async def talk(host: Host) -> None:
        async with shaped(host.port, seed) as port:
            await converse(Host(port, host.process), seconds, tally, opus=True, arrivals=arrivals)

    with hosting("--random", "--slots", "1", every=5.0, on_line=lines.append) as host:
        asyncio.run(talk(host))
    promise, limit = f"{_LINE}, both directions, real server and client over TCP: underrun", "≤ 0.5 % of the time"
    if len(arrivals) < 50:
        return unless(starved(lines), Promise(AREA, promise, limit, f"{len(arrivals)} frames: {tally.errors[:1]}", False,
                                              "the conversation broke off"))
    played = replayed(arrivals, NETWORK)
    told = f"{100 * played.underrun_share:.2f} % of {seconds:g} s, mean delay {played.delay_ms:.0f} ms; {tally.received} " \
           f"frames came of {tally.sent} sent, {tally.dropped} dropped by the server"
    how = "a TCP proxy draws the delays; Ogg/Opus; the arrivals are played by a real playout buffer"
    return unless(starved(lines), Promise(AREA, promise, limit, told, played.underrun_share <= 0.005 and not tally.errors, how))
