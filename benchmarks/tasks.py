"""The tasks of the duplex bench: what happens in a conversation, one function a task, each gives item number n of a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from benchmarks.clips import Clips
from benchmarks.items import (
    GAP,
    RENDITIONS,
    Item,
    Line,
    Scene,
    complete_lines,
    core,
    draw,
    draw_long,
    draw_short,
    instance,
    length,
    listening,
    plainly,
    scene,
)
from duplex.metrics.words import plain
from duplex.units import seconds_to_samples
from train.corpus import scripts
from train.corpus.exchange import FAR, Exchange, key

Task = Callable[[Clips, int, int], Item]
LATER = 30.0
"""Seconds between what is told and the question for it."""


def turn(clips: Clips, seed: int, number: int, split: str = "test") -> Item:
    """A question, and time to answer it. The scenarios take turns."""
    s = scene(clips, seed, "turn", number)
    names = core()
    name = names[number % len(names)]
    exchange, right = draw(s.rng, name, split)
    turn_mark = s.say(exchange)
    longest = max(right, key=len)
    listen, least = listening(longest)
    s.answer(exchange.system_key)
    return Item(f"turn/{number:04d}", "turn", name, s.speaker.name, number, s.finish(turn_mark[1] + listen), {"turn": turn_mark},
                exchange.user, right, least, ideal=tuple(s.ideal), words=tuple(s.words))


def pause(clips: Clips, seed: int, number: int) -> Item:
    """A user turn with a silence of 0.5 to 1.1 s in it, where the words so far are no whole turn."""
    s = scene(clips, seed, "pause", number, timed=True)
    names = core()
    while True:
        name = s.rng.choice(names)
        exchange, right = draw(s.rng, name)
        cuts = [k for k in range(1, len(exchange.user.split()) - 1) if _open_ended(exchange.user, k)]
        if not cuts or max(length(e) for e in right) > 4.5:
            continue
        said = clips.user(exchange.user_key, s.speaker, s.rng.randrange(RENDITIONS))
        if len(said.words) == len(exchange.user.split()):
            break
    k, silence = s.rng.choice(cuts), s.rng.uniform(0.5, 1.1)
    at = (said.words[k - 1].end + said.words[k].start) / 2
    cut = seconds_to_samples(at)
    parts = said.samples[:cut].copy(), said.samples[cut:].copy()
    edge = min(240, len(parts[0]), len(parts[1]))
    parts[0][len(parts[0]) - edge :] *= np.linspace(1, 0, edge, dtype=np.float32)
    parts[1][:edge] *= np.linspace(0, 1, edge, dtype=np.float32)
    start = s.clock
    s.parts += [(start, parts[0] * s.gain), (start + at + silence, parts[1] * s.gain)]
    s.clock = start + said.seconds + silence
    marks = {"turn": (start, s.clock), "pause": (start + at, start + at + silence)}
    listen, least = listening(max(right, key=len))
    s.answer(exchange.system_key)
    return Item(f"pause/{number:04d}", "pause", name, s.speaker.name, number, s.finish(marks["turn"][1] + listen), marks,
                exchange.user, right, least, ideal=tuple(s.ideal))


def _open_ended(text: str, words: int) -> bool:
    """Whether the first words of a line leave one waiting for more."""
    head = text.split()[:words]
    return head[-1][-1] not in ",.?!" and plain(" ".join(head)) not in complete_lines()


def interruption(clips: Clips, seed: int, number: int) -> Item:
    """The user breaks into a long answer: with a stop, with another request, or to correct what was asked."""
    s = scene(clips, seed, "interruption", number)
    kind = s.rng.choice(("stop", "stop", "request", "request", "correction"))
    while True:
        name, exchange = draw_long(s.rng, 4.5)
        if kind != "correction" or exchange.correction:
            break
    first = s.say(exchange)
    begin = s.clock + GAP + s.rng.uniform(1.6, 2.4)
    s.answer(exchange.system_key, stop=begin + 0.3)
    if kind == "correction":
        follow, right = exchange.correction, (exchange.correction.system,)
    elif kind == "stop":
        follow = s.rng.choice((scripts.stop, scripts.goodbye, _thanks))(scripts.Picker(s.rng, "test"))
        right = (follow.system,)
    else:
        _, follow, right = draw_short(s.rng, 2.6)
    event = s.say(follow, begin)
    listen, least = listening(max(right, key=len), 4.8)
    s.answer(follow.system_key)
    user = s.finish(event[1] + listen)
    return Item(f"interruption/{number:04d}", "interruption", f"{name}, {kind}", s.speaker.name, number, user,
                {"turn": first, "event": event}, follow.user, right, least, exchange.user, tuple(s.ideal), tuple(s.words),
                s.without_last())


def _thanks(pick: scripts.Picker) -> Exchange:
    return scripts.thanks(pick.rng, pick)[0]


def backchannel(clips: Clips, seed: int, number: int) -> Item:
    """The user says "mhm" or the like while the system gives a long answer."""
    return _beside(clips, seed, number, "backchannel", lambda rng: rng.choice(scripts.BACKCHANNELS))


def aside(clips: Clips, seed: int, number: int) -> Item:
    """The user says something to somebody else in the room while the system gives a long answer."""
    return _beside(clips, seed, number, "aside", lambda rng: rng.choice(scripts.ASIDES))


def background(clips: Clips, seed: int, number: int) -> Item:
    """Somebody else talks further away while the system gives a long answer."""
    return _beside(clips, seed, number, "background", lambda rng: key(rng.choice(scripts.ASIDES), FAR))


def _beside(clips: Clips, seed: int, number: int, task: str, line: Callable[[random.Random], str]) -> Item:
    """Speech in the user's channel, beside a long answer, that is not meant for the system."""
    s = scene(clips, seed, task, number)
    name, exchange = draw_long(s.rng, 6.0)
    first = s.say(exchange)
    end = s.clock
    s.answer(exchange.system_key)
    who = s.speaker if task != "background" else clips.speakers[(number + 1) % len(clips.speakers)]
    event = s.put(line(s.rng), end + GAP + s.rng.uniform(1.5, 2.5), who)
    user = s.finish(event[1] + 2.0)
    return Item(f"{task}/{number:04d}", task, name, s.speaker.name, number, user, {"turn": first, "event": event}, exchange.user,
                (), context=exchange.user, ideal=tuple(s.ideal), words=tuple(s.words), clean=s.without_last())


def report(clips: Clips, seed: int, number: int) -> Item:
    """A long turn of the user in which a listener may nod along; the recording ends with it."""
    s = scene(clips, seed, "report", number, timed=True)
    exchange = instance(s.rng, "report")[0]
    turn_mark = s.say(exchange)
    said = clips.user(exchange.user_key, s.speaker, 0)
    words = exchange.user.split()
    for k, word in enumerate(words[:-1]):  # after a clause a listener may nod
        if word.endswith(",") and len(said.words) == len(words):
            s.ideal.append(Line(turn_mark[0] + said.words[k].end + 0.1, s.rng.choice(scripts.SYSTEM_BACKCHANNELS)))
    return Item(f"report/{number:04d}", "report", "report", s.speaker.name, number, s.finish(turn_mark[1]), {"turn": turn_mark},
                exchange.user, (), ideal=tuple(s.ideal[::2]))


def _talk(s: Scene, exchanges: list[Exchange]) -> None:
    """Exchanges one after another, the user speaking again a little after each ideal answer."""
    for exchange in exchanges:
        s.say(exchange)
        s.answer(exchange.system_key)
        s.clock += s.rng.uniform(0.6, 1.0)


def _until(s: Scene, since: float) -> None:
    """Other talk, and then silence, until a moment."""
    for _ in range(3):
        if s.clock < since - 5.0:
            _talk(s, [draw_short(s.rng, 2.6, but=("name_recall", "name_recall_late", "cafe"))[1]])
            s.clock += s.rng.uniform(0.5, 3.0)
    s.clock = max(s.clock, since + 0.1)


def name_recall(clips: Clips, seed: int, number: int, split: str = "test") -> Item:
    """A name is told, and asked for half a minute later; other talk comes between."""
    return _asked_later(clips, seed, number, "name_recall", "name_recall_late", split)


def order_recall(clips: Clips, seed: int, number: int, split: str = "test") -> Item:
    """An order is given and revised, and asked for half a minute after the revision."""
    return _asked_later(clips, seed, number, "order_recall", "cafe", split)


def _asked_later(clips: Clips, seed: int, number: int, task: str, scenario: str, split: str) -> Item:
    s = scene(clips, seed, task, number)
    while True:
        exchanges = instance(s.rng, scenario, split)
        ask = exchanges[-1]
        revised = scenario != "cafe" or any(("instead" in e.user or "okay" in e.system) for e in exchanges[:-1])
        asked = scenario != "cafe" or "order" in ask.user
        if revised and asked and all(plainly(e) or e.wait for e in exchanges):
            break
    told = s.clock
    for exchange in exchanges[:-1]:
        _talk(s, [exchange])
        if scenario != "cafe" or "instead" in exchange.user or "okay" in exchange.system:
            told = s.clock
    _until(s, told + LATER)
    turn_mark = s.say(ask)
    listen, least = listening(ask.system)
    s.answer(ask.system_key)
    return Item(f"{task}/{number:04d}", task, scenario, s.speaker.name, number, s.finish(turn_mark[1] + listen),
                {"turn": turn_mark}, ask.user, (ask.system,), least, " | ".join(e.user for e in exchanges[:-1]), tuple(s.ideal))


TASKS: dict[str, Task] = {f.__name__: f for f in (
    turn, pause, interruption, backchannel, aside, background, report, name_recall, order_recall)}


ROOMS = {"digital silence": None, "noise at -75 dB": -75.0, "at -66 dB": -66.0, "at -60 dB": -60.0, "at -54 dB": -54.0}


def rooms(seconds: float, seed: int) -> list[np.ndarray]:
    """What a microphone hears where nobody speaks, float32 [T * 1920] each: digital silence and four levels of noise."""
    samples = seconds_to_samples(seconds)
    samples -= samples % 1920
    rng = np.random.default_rng((seed, 300))
    return [np.zeros(samples, np.float32) if db is None else
            (rng.standard_normal(samples) * 10 ** (db / 20)).astype(np.float32) for db in ROOMS.values()]


def make(clips: Clips, task: str, count: int, seed: int) -> list[Item]:
    """The first ``count`` items of a task."""
    return [TASKS[task](clips, seed, number) for number in range(count)]
