"""Which clips a bank should hold: who says which lines of the scripts, in which manner."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable

from train.corpus import scripts
from train.corpus.bank import Request, speaker_name
from train.corpus.casting import instances
from train.corpus.exchange import FAR, LANGUAGES, MUMBLED, REGISTRY, SOUNDS, STYLES, Exchange, Picker, key, split_key
from train.corpus.scenarios.languages import TALK
from train.corpus.speakers import Speaker, of_split

SYSTEM_ENGINE, SYSTEM_VOICE = "hibari", "heart"
SYSTEM_FOREIGN = {"fr": "ff_siwis", "es": "ef_dora"}  # voices of Kokoro
SYSTEM_SPEEDS = (1.0, 1.08)
# Lines that one speaker says, by engine: (training speakers, held-out speakers).
QUOTA = {"hibari": (480, 220), "flite": (380, 220), "espeak": (260, 180), "piper": (220, 150), "kokoro": (45, 36)}
NEAR_ASIDES, FAR_ASIDES = 4, 3


def script_lines(seed: int, draws: int = 60_000) -> tuple[list[str], list[str]]:
    """Names of user clips, as many as sampling brings up, and of all system clips that the scripts can ask for; both sorted."""
    rng = random.Random(seed)
    users, systems = {*scripts.BACKCHANNELS, *scripts.FILLERS}, set(scripts.SYSTEM_BACKCHANNELS)
    for split in ("train", "test"):
        found = scripts.exchanges(rng, split, draws) + _closings(Picker(rng, split))
        users |= set(user_keys(found))
        systems |= {e.system_key for e in with_corrections(found)}
    users |= {key(text, mark) for text in scripts.ASIDES for mark in ("", FAR)}
    return sorted(users), sorted(systems)


def with_corrections(exchanges: Iterable[Exchange]) -> Iterable[Exchange]:
    """The exchanges and those that may correct them."""
    for exchange in exchanges:
        yield exchange
        if exchange.correction:
            yield exchange.correction


def user_keys(exchanges: Iterable[Exchange]) -> list[str]:
    """Names of the user's clips, sounds included."""
    return [name for e in with_corrections(exchanges) for name in (e.user_key, e.sound_key) if name]


def _closings(pick: Picker) -> list[Exchange]:
    return [make(pick) for _ in range(60) for make in (scripts.goodbye, scripts.stop, lambda p: scripts.thanks(p.rng, p)[0])]


@functools.cache
def corrections(split: str) -> tuple[str, ...]:
    """How a user may break in to correct a request: few lines, which every speaker says, or they would hardly ever fit."""
    rng = random.Random("corrections")
    pick = Picker(rng, split)
    found = [e.correction.user_key for name in scripts.names() for _ in range(40)
             for e in scripts.instance(rng, pick, name) if e.correction]
    return tuple(dict.fromkeys(found))


def speaker_lines(speaker: Speaker, split: str, quota: int, seed: int) -> list[str]:
    """What one speaker says: everything that can happen at any time, then whole scenarios up to ``quota`` lines."""
    rng = random.Random(f"{seed}:{speaker.name}")
    pick = Picker(rng, split)
    found = dict.fromkeys([*scripts.BACKCHANNELS, *scripts.FILLERS, *user_keys(_closings(pick))])
    found |= dict.fromkeys(corrections(split))
    found |= dict.fromkeys(rng.sample(scripts.ASIDES, NEAR_ASIDES))
    found |= dict.fromkeys(key(text, FAR) for text in rng.sample(scripts.ASIDES, FAR_ASIDES))
    scenarios = list(instances(split).items())
    weights = [REGISTRY.scenarios[name][0] for name, _ in scenarios]
    while len(found) < quota:  # instances that casting knows: of others, drawn anew, a speaker would lack one line or another
        names = user_keys(rng.choice(rng.choices(scenarios, weights)[0][1]))
        if all(sayable(name, speaker) for name in names):
            found |= dict.fromkeys(name for name in names if split_key(name)[1] not in SOUNDS)
    return list(found)


def sayable(name: str, speaker: Speaker) -> bool:
    """Whether the speaker can speak a clip so; sounds come from nobody and stand in nobody's way."""
    mark = split_key(name)[1]
    return mark in ("", MUMBLED, FAR) or mark in SOUNDS or mark in speaker.styles()


def user_requests(engine: str, seed: int, share: float = 1.0) -> list[Request]:
    """The user clips of one engine, in a fixed random order; ``share`` of each speaker's lines."""
    rng = random.Random(f"{seed}:{engine}")
    wanted = []
    for split, quota in zip(("train", "test"), QUOTA.get(engine, (0, 0)), strict=True):
        for speaker in of_split(split, engine):
            wanted += [request(speaker, name, rng) for name in speaker_lines(speaker, split, round(share * quota), seed)]
        for language in LANGUAGES:
            for speaker in of_split(split, engine, language):
                wanted += [request(speaker, key(text, language), rng) for text in TALK[language] for _ in range(3)]
    rng.shuffle(wanted)
    return wanted


def request(speaker: Speaker, name: str, rng: random.Random) -> Request:
    """How a speaker says a line."""
    mark = split_key(name)[1]
    speed, pitch = speaker.styled(mark) if mark in STYLES else (speaker.speed, speaker.pitch)
    return Request(name, speaker.voice, "user", round(speed * rng.uniform(0.94, 1.06), 3), speaker.warp, rng.randrange(1000),
                   pitch, speaker_name(speaker.voice, speaker.warp, speaker.pitch))


def system_requests(engine: str, systems: list[str]) -> list[Request]:
    """The system's lines that an engine speaks: English by the one system voice, others by a voice of the language."""
    wanted = []
    for name in systems:
        mark = split_key(name)[1]
        voice = SYSTEM_VOICE if engine == SYSTEM_ENGINE and not mark else SYSTEM_FOREIGN.get(mark) if engine == "kokoro" else None
        if voice:
            wanted += [Request(name, voice, "system", speed, seed=i) for i, speed in enumerate(SYSTEM_SPEEDS)]
    return wanted
