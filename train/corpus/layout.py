"""One dialogue being laid out: exchanges in time on two channels, and everything that happens between them.

Every placement is known here, so word times and event times are exact by construction. The system's behaviour is what
the model learns: it answers shortly after the user's turn ends, stops soon after a barge-in begins, goes on through a
backchannel and through a pause inside a turn, and keeps quiet while nobody addresses it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from duplex.text import Word
from duplex.units import frames_to_seconds, seconds_to_frame
from train.corpus import scripts
from train.corpus.bank import Clip
from train.corpus.casting import Casting
from train.corpus.exchange import MUMBLED, REGISTRY, STYLES, Exchange, Picker, split_key
from train.corpus.phenomena import Phenomena
from train.corpus.plan import Placement, Plan
from train.corpus.style import GAIN_DB

# Scenarios that would overwrite what a parked question is about.
SAME_MEMORY = {"name_recall_late": ("name_recall", "name_recall_late"), "name_recall": ("name_recall", "name_recall_late"),
               "cafe": ("cafe", "order_recall_late"), "order_recall_late": ("cafe", "order_recall_late")}


def written(text: str) -> str:
    """Spoken lower case -> written case: sentence starts, names, days and "I"."""
    words, start = [], True
    for word in text.split():
        bare = word.rstrip(",.?!")
        words.append(word.capitalize() if start or bare in scripts.PROPER else word)
        start = word[-1] in ".?!"
    return " ".join(words)


class Layout:
    """The state of one dialogue while it is being laid out."""

    def __init__(self, casting: Casting, phenomena: Phenomena, split: str, rng: random.Random, seconds: float,
                 weights: Mapping[str, float]):
        self.casting, self.p, self.rng, self.seconds = casting, phenomena, rng, seconds
        self.library = casting.library
        self.pick = Picker(rng, split)
        self.speaker = casting.speaker(rng)
        menu = casting.menus[self.speaker]
        self.menu, self.names = menu, list(menu)
        self.weights = [weights.get(name, REGISTRY.scenarios[name][0]) for name in self.names]
        self.queue: list[Exchange] = []
        self.parked: list[tuple[float, Exchange, str]] = []
        self.scenario = ""
        self.answered: float | None = None  # when the system's last answer ended
        strong = rng.random() < phenomena.gain
        decibels = rng.uniform(*(phenomena.gain_db if strong else GAIN_DB))
        self.out = Plan(speaker=self.speaker, gain=10 ** (decibels / 20))
        if strong:
            self._event("gain", 0.0, seconds, db=round(decibels, 2))

    def run(self) -> Plan:
        """Fills the dialogue and returns its plan."""
        clock = self.rng.uniform(0.4, 2.0)
        if self.rng.random() < 0.35:
            self.queue = [e for e in (scripts.greeting(self.rng, self.pick)[0],) if self.casting.can(self.speaker, e)]
        while clock < self.seconds:
            exchange, same_topic = self._next(clock)
            if exchange is None:
                continue
            if self.answered is not None:
                clock = self._transfer(clock, same_topic)
                if clock >= self.seconds:
                    break
            clock = self._exchange(exchange, clock)
        self._background()
        return self._finish()

    # What is talked about

    def _next(self, clock: float) -> tuple[Exchange | None, bool]:
        """The next exchange, and whether it goes on with the topic; None when it was put off."""
        same_topic = bool(self.queue)
        if not self.queue:
            due = next((p for p in self.parked if p[0] <= clock), None)
            if due:
                self.parked.remove(due)
                return due[1], False
            self.queue = self._draw()
        exchange = self.queue.pop(0)
        if exchange.wait and same_topic:
            self.parked.append((clock + exchange.wait, exchange, self.scenario))
            return None, False
        return exchange, same_topic

    def _draw(self) -> list[Exchange]:
        """The exchanges of a scenario, in one of the instances that the speaker can play."""
        if self.rng.random() < 0.03:
            farewell = scripts.goodbye(self.pick)
            if self.casting.can(self.speaker, farewell):
                self.scenario = "goodbye"
                return [farewell]
        blocked = {name for _, _, scenario in self.parked for name in SAME_MEMORY.get(scenario, ())}
        name = self.rng.choices(self.names, self.weights)[0]
        for _ in range(20):
            if name not in blocked:
                break
            name = self.rng.choices(self.names, self.weights)[0]
        self.scenario = name
        return list(self.rng.choice(self.menu[name]))

    # When

    def _transfer(self, clock: float, same_topic: bool) -> float:
        """From the end of an answer to the next user turn: at once, after a while, or after something else."""
        rng, p = self.rng, self.p
        if not same_topic:
            if rng.random() < p.aside:
                clock = self._aside(clock)
            if rng.random() < p.long_silence:
                end = clock + rng.uniform(*p.silence_seconds)
                self._event("long_silence", clock, end)
                return end
            if rng.random() >= p.at_once:
                return clock + rng.uniform(0.5, 2.2)
        if clock != self.answered:
            return clock + rng.uniform(0.5, 2.2)
        offset = min(1.5, max(-0.6, rng.gauss(p.floor_offset, p.floor_spread)))
        start = max(clock + offset, 0.0)
        self._event("overlap" if offset < 0 else "gap", min(clock, start), max(clock, start), to="user", offset=round(offset, 3))
        return start

    def _aside(self, clock: float) -> float:
        options = [text for text in scripts.ASIDES if self.casting.clips(self.speaker, text)]
        if not options:
            return clock
        return self._say(self.rng.choice(options), clock + self.rng.uniform(0.4, 1.2), "aside", pause=False)

    # The user's side

    def _say(self, name: str, at: float, kind: str, pause: bool = True, **about) -> float:
        """Place a user clip; returns when it ends."""
        text, mark = split_key(name)
        clip = self.rng.choice(self.casting.clips(self.speaker, name))
        length, words = self.library.timing(clip)
        hole = self._hole(at, words) if pause and mark != MUMBLED else None
        if hole:
            words = tuple(w if w.end <= hole[0] + 1e-6 else Word(w.text, w.start + hole[1], w.end + hole[1]) for w in words)
            length += hole[1]
        # A manner of speaking keeps its own level, whatever the channel's gain.
        gain = 1.0 / self.out.gain if mark in ("loud", "quiet") else 1.0
        self.out.placements.append(Placement("user", at, clip, hole=hole, gain=gain))
        self.out.user_words += [moved(w, at) for w in words]
        about |= {"manner": mark} if mark in STYLES else {"language": mark} if len(mark) == 2 else {}
        self._event(kind, at, at + length, text=text, speaker=clip.speaker, **about)
        return at + length

    def _hole(self, at: float, words: tuple[Word, ...]) -> tuple[float, float] | None:
        """Maybe a silence between two words of a clip, maybe with a filler in it."""
        if len(words) < 4:
            return None
        draw = self.rng.random()
        if draw >= self.p.pause + self.p.hesitation:
            return None
        k = self.rng.randrange(1, len(words) - 1)
        begin, length = (words[k - 1].end + words[k].start) / 2, self.rng.uniform(*self.p.pause_seconds)
        begin = max(words[k - 1].end, begin) if words[k].start > words[k - 1].end else words[k - 1].end
        fillers = [c for text in scripts.FILLERS for c in self.casting.clips(self.speaker, text)]
        if draw >= self.p.pause and fillers:
            clip = self.rng.choice(fillers)
            filler = self.library.timing(clip)[0]
            length = filler + self.rng.uniform(0.4, 0.8)
            start = at + begin + self.rng.uniform(0.15, length - filler - 0.15)
            self.out.placements.append(Placement("user", start, clip, stop=filler))
            self.out.user_words.append(moved(Word(clip.text, 0.0, filler), start))
            self._event("user_hesitation", start, start + filler, text=clip.text)
        self._event("user_pause", at + begin, at + begin + length)
        return begin, length

    def _sound(self, exchange: Exchange, clock: float) -> float:
        """Place the sound that an exchange is about; returns when the words may begin."""
        clip = self.rng.choice(self.casting.clips("", exchange.sound_key))
        length = self.library.timing(clip)[0]
        self.out.placements.append(Placement("user", clock, clip))
        self._event("sound", clock, clock + length, sound=exchange.sound)
        return clock + length + self.rng.uniform(0.25, 0.6)

    # One exchange

    def _exchange(self, exchange: Exchange, clock: float) -> float:
        """Lay out an exchange and whatever interrupts its answer; returns when all is quiet."""
        if exchange.sound:
            clock = self._sound(exchange, clock)
        begin = clock
        about = {"unintelligible": True} if exchange.user_mark == MUMBLED else {}
        clock = self._say(exchange.user_key, clock, "user_turn", **about)
        if exchange.long_turn:
            self._listen(begin, clock)
        while True:
            gap = min(0.9, max(0.2, self.rng.gauss(self.p.response_gap, self.p.response_spread)))
            start = frames_to_seconds(seconds_to_frame(clock + gap))  # the system speaks on its own frames
            self._event("gap", clock, start, to="system", offset=round(start - clock, 3))
            clip = self.rng.choice(self.library.find("system", exchange.system_key))
            length, words = self.library.timing(clip)
            if words and len(words) == len(exchange.system.split()):
                words = tuple(Word(t, w.start, w.end) for t, w in zip(written(exchange.system).split(), words, strict=True))
            self.out.texts.append((exchange.user, exchange.system))
            follow = self._interruption(exchange, start, length)
            if follow is None:
                self._answer(start, clip, words, length)
                self.answered = start + length
                return self.answered
            at, kind, exchange = follow
            cut = min(length, at - start + self.rng.uniform(*self.p.yield_after))
            self._answer(start, clip, words, cut, cut < length)
            clock = max(self._say(exchange.user_key, at, kind, pause=False), start + cut)
            if cut < length:
                self._event("yielded", at, start + cut)

    def _answer(self, start: float, clip: Clip, words: tuple[Word, ...], cut: float, broken: bool = False) -> None:
        """Place the system's answer, up to ``cut`` seconds where it is broken off."""
        kept = tuple(w for w in words if w.start < cut - 0.08) if broken else words
        self.out.placements.append(Placement("system", start, clip, stop=cut if broken else None))
        self.out.system_words += [moved(Word(w.text, w.start, min(w.end, cut)), start) for w in kept]
        self._event("system_turn", start, start + cut, text=" ".join(w.text for w in kept))

    def _interruption(self, exchange: Exchange, start: float, length: float) -> tuple[float, str, Exchange] | None:
        """Maybe place a backchannel; maybe return a barge-in (time, kind, exchange that it opens)."""
        if not exchange.interruptible or length < 2.0:
            return None
        draw = self.rng.random()
        at = start + self.rng.uniform(0.2, 0.8) * length
        if draw < self.p.backchannel:
            text = self.rng.choice(scripts.BACKCHANNELS)
            if self.casting.clips(self.speaker, text):
                self._say(text, at, "user_backchannel", pause=False)
            return None
        if draw > self.p.backchannel + self.p.barge_in:
            return None
        draw = self.rng.random()
        if draw < self.p.stop_share:
            options = [scripts.stop(self.pick), scripts.thanks(self.rng, self.pick)[0], scripts.goodbye(self.pick)]
            options = [o for o in options if self.casting.can(self.speaker, o)]
            return (at, "barge_in_stop", self.rng.choice(options)) if options else None
        right = exchange.correction
        if draw < self.p.stop_share + self.p.correction_share and right and self.casting.can(self.speaker, right):
            return at, "barge_in_correction", right
        if self.queue and not self.queue[0].wait and not self.queue[0].sound:
            return at, "barge_in_request", self.queue.pop(0)
        waiting, topic = self.queue, self.scenario
        first, *rest = self._draw()
        if first.sound or first.long_turn or first.wait:  # these want a quiet room
            self.queue, self.scenario = waiting, topic
            return None
        self.queue = rest + waiting
        return at, "barge_in_request", first

    def _listen(self, begin: float, end: float) -> None:
        """Backchannels of the system at the clauses of a long user turn."""
        words = [w for w in self.out.user_words if begin <= w.start and w.end <= end + 1e-6]
        breaks = [w.end for w in words if w.text.endswith(",")] or [begin + (end - begin) * x for x in (0.3, 0.6)]
        free = begin
        for at in breaks:
            start = frames_to_seconds(seconds_to_frame(at + self.rng.uniform(0.08, 0.3)))
            clips = [c for text in scripts.SYSTEM_BACKCHANNELS for c in self.library.find("system", text)]
            if not clips or self.rng.random() >= self.p.system_backchannel or start < free + 1.0:
                continue
            clip = self.rng.choice(clips)
            length, spoken = self.library.timing(clip)
            if start + length > end - 0.3:
                return
            self.out.placements.append(Placement("system", start, clip))
            names = written(clip.text).split()
            if len(names) == len(spoken):
                spoken = tuple(Word(t, w.start, w.end) for t, w in zip(names, spoken, strict=True))
            self.out.system_words += [moved(w, start) for w in spoken]
            self._event("system_backchannel", start, start + length, text=clip.text)
            free = start + length

    # Around it

    def _background(self) -> None:
        """Somebody far away speaks now and then, never over the user's own words or in a long silence."""
        wanted = self.rng.uniform(0, 2) * self.p.background_speech * self.seconds / 60
        count = int(wanted) + (self.rng.random() < wanted % 1)
        others = [c for c in self.casting.far if c.speaker != self.speaker] or self.casting.far
        for _ in range(count if others else 0):
            clip = self.rng.choice(others)
            length, words = self.library.timing(clip)
            for _ in range(8):
                at = self.rng.uniform(0.0, self.seconds)
                if all(at + length + 0.1 < e["start"] or e["end"] + 0.1 < at for e in self.out.events if _keeps_free(e)):
                    self.out.placements.append(Placement("user", at, clip))
                    self._event("background_speech", at, at + length, text=split_key(clip.text)[0], speaker=clip.speaker)
                    break

    def _event(self, kind: str, start: float, end: float, **about) -> None:
        self.out.events.append({"kind": kind, "start": round(start, 3), "end": round(end, 3), **about})

    def _finish(self) -> Plan:
        """The channel's noise, echo and reverberation; labels past the end cut; all in order of time."""
        rng, p, out, seconds = self.rng, self.p, self.out, self.seconds
        if rng.random() < p.quiet_noise:
            out.noise = 10 ** (rng.uniform(-75, -42) / 20)
        out.noise_seed = rng.randrange(2**32)
        if rng.random() < p.noise:
            out.snr_noise = round(rng.uniform(*p.noise_db), 2)
            self._event("noise", 0.0, seconds, db=out.snr_noise)
        if rng.random() < p.echo:
            out.echo = round(rng.uniform(*p.echo_scale), 3), round(rng.uniform(*p.echo_delay), 3)
            self._event("echo", 0.0, seconds, scale=out.echo[0], delay=out.echo[1])
        if rng.random() < p.reverb:
            out.reverb = round(rng.uniform(*p.reverb_seconds), 3)
            self._event("reverb", 0.0, seconds, seconds=out.reverb)
        out.placements = sorted((x for x in out.placements if x.start < seconds), key=lambda x: x.start)
        out.system_words, out.user_words = _within(out.system_words, seconds), _within(out.user_words, seconds)
        events = [e | {"end": min(e["end"], seconds)} for e in out.events if e["start"] < seconds]
        out.events = sorted(events, key=lambda e: e["start"])
        return out


def _within(words: list[Word], seconds: float) -> list[Word]:
    """The words that begin in time, in order; the dialogue's end cuts them."""
    return [Word(w.text, w.start, min(w.end, seconds)) for w in sorted(words, key=lambda w: w.start) if w.start < seconds]


def _keeps_free(event: dict) -> bool:
    """Whether a far voice may not fall into this event: user speech, sounds and silences."""
    return event["kind"].startswith(("user_", "barge_in")) or event["kind"] in ("aside", "sound", "long_silence",
                                                                               "background_speech")


def moved(word: Word, by: float) -> Word:
    """A word some seconds later."""
    return Word(word.text, round(word.start + by, 3), round(word.end + by, 3))
