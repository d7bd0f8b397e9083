"""Who can say what: every instance of every scenario, indexed by the speakers whose clips cover it.

Drawing a scenario and throwing it away because the speaker lacks a line costs most of a plan's time when a speaker knows
little. Here all instances are drawn once, and each speaker keeps those that the library can speak in full.
"""

from __future__ import annotations

import functools
import random
from collections import defaultdict

from train.corpus import scripts
from train.corpus.bank import Clip
from train.corpus.exchange import FAR, LANGUAGES, REGISTRY, SOUNDS, Exchange, Picker, key, split_key
from train.corpus.plan import Library
from train.corpus.speakers import HELD_OUT

DRAWS = 12_000
KNOWN = 300  # draws in a row that brought nothing new: then a scenario is taken to be exhausted
ENGINE_WEIGHT = 6  # an engine counts by its speakers, up to so many
Instance = tuple[Exchange, ...]


@functools.lru_cache(maxsize=4)
def instances(split: str, draws: int = DRAWS) -> dict[str, list[Instance]]:
    """Different instances of each scenario of a split, in a fixed order."""
    found = {}
    for name in REGISTRY.scenarios:
        rng = random.Random(f"instances:{split}:{name}")
        pick = Picker(rng, split)
        options: dict[Instance, None] = {}
        since = 0
        for _ in range(draws):
            before = len(options)
            options[tuple(scripts.instance(rng, pick, name))] = None
            since = 0 if len(options) > before else since + 1
            if since == KNOWN:
                break
        found[name] = list(options)
    return found


def anybody(name: str) -> bool:
    """Whether a clip need not come from the dialogue's own speaker: sounds and other languages."""
    mark = split_key(name)[1]
    return mark in SOUNDS or mark in LANGUAGES


class Casting:
    """The clips of a library by speaker, and what each speaker can take part in."""

    def __init__(self, library: Library, split: str):
        self.library = library
        self._clips: dict[tuple[str, str], list[Clip]] = defaultdict(list)
        lines: dict[str, set[str]] = defaultdict(set)
        far: set[str] = {key(text, FAR) for text in scripts.ASIDES}
        self.far: list[Clip] = []
        wanted = self._of_split([c for c in library.clips if c.role == "user" and c.engine != "sounds"], split)
        for clip in wanted:
            self._clips[clip.speaker, clip.text].append(clip)
            if not anybody(clip.text):
                lines[clip.speaker].add(clip.text)
            else:
                self._clips["", clip.text].append(clip)
            if clip.text in far:
                self.far.append(clip)
        for sound in SOUNDS:
            self._clips["", key("", sound)] = library.find("user", key("", sound))
        self.menus = {speaker: self._menu(spoken, split) for speaker, spoken in sorted(lines.items())}
        self.menus = {speaker: menu for speaker, menu in self.menus.items() if menu}
        self._engines: dict[str, list[str]] = defaultdict(list)
        for speaker in self.menus:
            self._engines[speaker.partition(":")[0]].append(speaker)

    @staticmethod
    def _of_split(clips: list[Clip], split: str) -> list[Clip]:
        """The clips of a split's speakers; all of them where the split has none (a bank of one voice)."""
        own = [c for c in clips if (c.speaker in HELD_OUT) == (split == "test")]
        return own or clips

    def _menu(self, spoken: set[str], split: str) -> dict[str, list[Instance]]:
        """Scenario -> instances that a speaker of these lines can play."""
        menu = {}
        for name, options in instances(split).items():
            able = [i for i in options if (i[0].user_key in spoken or anybody(i[0].user_key))  # what mostly fails comes first
                    and all(self._possible(e, spoken) for e in i)]
            if able:
                menu[name] = able
        return menu

    def _possible(self, exchange: Exchange, spoken: set[str]) -> bool:
        said = bool(self._clips.get(("", exchange.user_key))) if anybody(exchange.user_key) else exchange.user_key in spoken
        heard = not exchange.sound or bool(self._clips["", exchange.sound_key])
        return said and heard and self._answered(exchange.system_key)

    def _answered(self, name: str) -> bool:
        return bool(self.library.find("system", name))

    def speaker(self, rng: random.Random) -> str:
        """A main speaker; an engine with many speakers comes more often."""
        engines = sorted(self._engines)
        engine = rng.choices(engines, [min(ENGINE_WEIGHT, len(self._engines[e])) for e in engines])[0]
        return rng.choice(self._engines[engine])

    def clips(self, speaker: str, name: str) -> list[Clip]:
        """The clips of a name by a speaker, or by anybody where it may be anybody."""
        return self._clips.get(("" if anybody(name) else speaker, name), [])

    def can(self, speaker: str, exchange: Exchange) -> bool:
        """Whether a speaker can say this and the system can answer."""
        return bool(self.clips(speaker, exchange.user_key)) and self._answered(exchange.system_key)
