"""Faults: peers that vanish, do not read, or flood, a failure inside one conversation; what is left, what others notice."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator

from benchmarks.trust import Options, Promise
from benchmarks.trust.load import Host, Tally, converse, hosting
from benchmarks.trust.peers import VANISHING, Flooding, begin, flood, reset, talk_deaf
from benchmarks.trust.sessions import starved, unless
from duplex.backlog import BacklogConfig
from duplex.units import seconds_to_frames

AREA = "faults"
SLOTS, CRASH_SEED = 8, 666
TIMES, FLOOD_SECONDS = 10.0, 20.0
"""A flood: so many times real time, for so long unless it is ended."""
LEFT = BacklogConfig().max_frames + 1
"""Frames that may be with the model when a conversation ends: a full queue, and one in the step."""
UNDER_WAY = seconds_to_frames(0.25 * TIMES)
"""Frames that a flood may send between its end and being told of it: a quarter of a second's."""
LEAKS = ("seats", "tasks", "descriptors", "threads")
_HOW = "a real server in a process of its own, a small random model behind it"


class Watched:
    """A server's lines as they come."""

    def __init__(self) -> None:
        self.lines: list[dict] = []
        self._news = threading.Condition()

    def take(self, line: dict) -> None:
        with self._news:
            self.lines.append(line)
            self._news.notify_all()

    def wait(self, right: Callable[[dict], bool], seconds: float) -> dict | None:
        """The next line that is as wanted; None when none comes in time."""
        ending, seen = time.monotonic() + seconds, len(self.lines)
        with self._news:
            while True:
                for line in self.lines[seen:]:
                    if right(line):
                        return line
                seen = len(self.lines)
                if not self._news.wait(max(ending - time.monotonic(), 0.001)) and time.monotonic() >= ending:
                    return None


def run(options: Options) -> Iterator[Promise]:
    """Every fault against one server, beside neighbours that talk in real time."""
    watched = Watched()
    with hosting("--random", "--slots", str(SLOTS), "--crash-seed", str(CRASH_SEED), every=0.25, on_line=watched.take) as host:
        yield from _vanishing(host, watched, 200 if options.short else 1000, options.seed)
        yield from _deaf(host, watched, 30.0)
        yield from _flood(host, watched)
        yield from _crash(host, watched)


def _vanishing(host: Host, watched: Watched, count: int, seed: int) -> Iterator[Promise]:
    """Resets in every stage, then peers that stay connected and silent."""
    rng = random.Random(seed)
    reset(begin(host.port, "talking"))  # what is made once is made now
    before = watched.wait(lambda line: line["seats"] == 0, 30)
    assert before is not None, "the server does not come to rest"
    quick, silent = round(0.9 * count), count - round(0.9 * count)
    for number in range(quick):
        raw = begin(host.port, VANISHING[number % len(VANISHING)])
        if rng.random() < 0.5:
            time.sleep(rng.uniform(0, 0.02))
        reset(raw)
    slowest = 0.0
    for first in range(0, silent, SLOTS):
        held = [begin(host.port, VANISHING[number % len(VANISHING)]) for number in range(first, min(first + SLOTS, silent))]
        begun = time.monotonic()
        # Nothing is closed here: the server must find out by itself that nobody is there.
        free = watched.wait(lambda line: line["seats"] == 0 and line["descriptors"] <= before["descriptors"] + 1, 40)
        slowest = max(slowest, time.monotonic() - begun) if free else 40.0
        for raw in held:
            reset(raw)
    after = watched.wait(lambda line: all(line[name] <= before[name] for name in LEAKS), 30) or watched.lines[-1]
    told = ", ".join(f"{before[name]} → {after[name]} {name}" for name in LEAKS)
    yield Promise(AREA, f"{count} abrupt disconnects leak no slot, task, descriptor or thread", "none",
                  told, all(after[name] <= before[name] for name in LEAKS),
                  f"{quick} resets in the stages {', '.join(VANISHING)}; {silent} peers that fall silent there; {_HOW}")
    yield Promise(AREA, "a peer that falls silent, in a request or in a conversation, is gone with its slot and descriptor",
                  "≤ 20 s", f"{slowest:.1f} s for the slowest of {silent}", slowest <= 20, "connected, never heard of again")


def _deaf(host: Host, watched: Watched, seconds: float) -> Iterator[Promise]:
    """A client that talks and does not read, beside a neighbour; the neighbour alone before and after it."""
    alone, beside = Tally(), Tally()
    asyncio.run(converse(host, 10, alone))
    begun, grown, cut = watched.lines[-1], [0], []

    def deaf() -> None:
        cut.append(talk_deaf(host.port, seconds, lambda: watched.lines[-1]["seats"] < 2))

    thread = threading.Thread(target=deaf)

    async def both() -> None:
        thread.start()
        await converse(host, 15, beside)

    asyncio.run(both())
    thread.join(seconds + 5)
    asyncio.run(converse(host, 10, alone))
    during = [line for line in watched.lines if line["seconds"] > begun["seconds"]]
    grown = max(line["anon_kb"] for line in during) - begun["anon_kb"]
    ended = cut[0] if cut else None
    yield Promise(AREA, "a client that does not read is closed", "≤ 10 s",
                  "never" if ended is None else f"{ended:.1f} s after it began", ended is not None and ended <= 10,
                  f"talks in real time into a socket that nobody reads; {_HOW}")
    yield Promise(AREA, "memory that it costs", "≤ 8 MiB", f"{grown / 1024:.2f} MiB", grown <= 8 * 1024, "growth of RssAnon")
    more = (beside.trips.at(0.99) or 0) - (alone.trips.at(0.99) or 0)
    told = f"{more:+.1f} ms ({alone.trips.at(0.99)} ms alone before and after, {beside.trips.at(0.99)} ms beside it)"
    busy = starved(during)
    yield unless(busy, Promise(AREA, "what it costs a neighbour, p99 of a frame's round trip", "≤ 5 ms", told, more <= 5,
                               f"{alone.received + beside.received} frames"), relative=True)
    yield unless(busy, Promise(AREA, "frames that it costs a neighbour", "0", f"{beside.deficit} of {beside.sent}; "
                               f"{alone.deficit} of {alone.sent} without it", beside.deficit == 0, "frames sent less received"))


def _flood(host: Host, watched: Watched) -> Iterator[Promise]:
    """Ten times real time."""
    before, beside, result = watched.wait(lambda line: line["seats"] == 0, 10) or watched.lines[-1], Tally(), []
    thread = threading.Thread(target=lambda: result.append(flood(host.port, TIMES, FLOOD_SECONDS)))

    async def both() -> None:
        thread.start()
        await converse(host, 8, beside)

    asyncio.run(both())
    thread.join(FLOOD_SECONDS + 5)
    watched.wait(lambda line: line["seats"] == 0, 10)
    lines = [line for line in watched.lines if line["seconds"] > before["seconds"]]
    deepest, busy, flooding = max(line["waiting"] for line in lines), starved(lines), result[0]
    yield Promise(AREA, "ten times real time: backlog", "≤ 400 ms", f"{80 * deepest} ms ({deepest} frames)",
                  deepest <= BacklogConfig().max_frames, f"looked at every 0.25 s, bounded by `duplex.backlog`; {flooding.sent} "
                  f"frames in {flooding.seconds:.1f} s, then it was ended")
    yield accounted(before, lines[-1], flooding, beside, bool(busy))
    yield unless(busy, Promise(AREA, "ten times real time: frames that it costs a neighbour", "0",
                               f"{beside.deficit} of {beside.sent}", beside.deficit == 0, "frames sent less frames received"))


def accounted(before: dict, after: dict, flooding: Flooding, beside: Tally, busy: bool = False) -> Promise:
    """Whether the server knows what became of every frame, by its lines before and after a flood; `beside`: its neighbours.

    Each frame received is answered, counted as dropped, or was still with the model when the conversation ended. What was sent
    and not received must have come after the end: but for a moment's sound the peer had been told of it by then, unless the
    machine was busy.
    """
    received, answered = (after[name] - before[name] for name in ("received", "frames"))
    dropped = sum(after["dropped"].values()) - sum(before["dropped"].values())
    left = received - dropped - answered  # the neighbours' frames cancel out
    received, answered, dropped = received - beside.sent, answered - beside.received, dropped - beside.dropped
    under_way = flooding.told - received
    measured = f"{received} received: {dropped} counted as dropped, {answered} answered, {left} in the queue at the end"
    how = f"the server's counters; of {flooding.sent} sent, {flooding.sent - received} were never received, because the " \
          f"conversation had been ended with a reason: {flooding.sent - flooding.told} were sent after the peer had been told " \
          f"and before the connection was closed, {under_way} (at most {UNDER_WAY}) were under way"
    known = 0 <= left <= LEFT and dropped > 0
    ended = 0 <= under_way and (under_way <= UNDER_WAY or busy) and flooding.seconds < FLOOD_SECONDS - 1
    return Promise(AREA, "ten times real time: every frame received is answered or counted as dropped",
                   f"all but ≤ {LEFT} in the queue at the end", measured, known and ended, how)


def _crash(host: Host, watched: Watched) -> Iterator[Promise]:
    """A failure in the handling of one conversation, beside three others."""
    hurt, others, first = Tally(), Tally(), len(watched.lines)

    async def all_of_them() -> None:
        await asyncio.gather(converse(host, 6, hurt, seed=CRASH_SEED),
                             *(converse(host, 6, others, opus=n == 1, seed=n) for n in range(3)))

    asyncio.run(all_of_them())
    how = f"three neighbours, the failure planted in the fifth frame; {_HOW}"
    failed = [any("internal error" in error for error in hurt.errors),  # told twice: by a message and by the close
              sum("internal error" in error for error in others.errors)]
    yield Promise(AREA, "a failure in one conversation's handling ends that one in words and no other", "1 ended",
                  f"{sum(failed)} ended, told: {hurt.errors[:1]}", failed == [True, 0], how)
    yield unless(starved(watched.lines[first:]), Promise(AREA, "frames that it costs the others", "0", f"{others.deficit} of "
                                                         f"{others.sent}", others.deficit == 0, how))
