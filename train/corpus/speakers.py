"""Who speaks in the user's channel: voices of several engines, made into more speakers by pitch, vocal tract and tempo.

``pitch`` moves the fundamental, ``warp`` pitch and formants together (a longer or shorter vocal tract). The speakers of
`HELD_OUT` belong to the test split: training dialogues never draw them.
"""

from __future__ import annotations

from dataclasses import dataclass

from train.corpus.bank import speaker_name
from train.corpus.exchange import STYLES

FAST, SLOW = 1.5, 0.62
HIGH_HZ, LOW_HZ = 330.0, 95.0
HEART_HZ = 195.0  # mean fundamental of the hibari voice


@dataclass(frozen=True)
class Speaker:
    """One person: an engine's voice with its changes."""

    engine: str
    voice: str
    warp: float = 1.0
    speed: float = 1.0
    pitch: float = 1.0
    language: str = "en"

    @property
    def name(self) -> str:
        """As the bank names it."""
        return f"{self.engine}:{speaker_name(self.voice, self.warp, self.pitch)}"

    def styles(self) -> tuple[str, ...]:
        """The manners that this speaker can show; high and low need an engine that moves the pitch alone."""
        return STYLES if self.engine in ("hibari", "espeak") else tuple(s for s in STYLES if s not in ("high", "low"))

    def styled(self, style: str) -> tuple[float, float]:
        """(speed, pitch) of a manner."""
        if style == "fast":
            return self.speed * FAST, self.pitch
        if style == "slow":
            return self.speed * SLOW, self.pitch
        if style in ("high", "low"):
            hertz = HIGH_HZ if style == "high" else LOW_HZ
            return self.speed, round(hertz / (HEART_HZ * self.warp), 2)
        return self.speed, self.pitch


def _hibari() -> list[Speaker]:
    plain = [Speaker("hibari", "heart", w, s) for w, s in ((0.76, 1.1), (0.82, 1.0), (0.88, 1.05), (1.08, 0.95), (1.15, 0.92))]
    made = [Speaker("hibari", "heart", w, s, p) for w, s, p in (
        (0.80, 1.12, 0.62), (0.80, 1.02, 0.72), (0.84, 1.18, 0.60), (0.84, 0.96, 0.80), (0.88, 1.10, 0.64), (0.88, 1.02, 0.78),
        (0.92, 1.15, 0.70), (0.92, 0.94, 0.90), (0.96, 1.06, 0.76), (0.96, 1.00, 1.12), (1.00, 1.12, 0.84), (1.00, 0.92, 1.18),
        (1.04, 1.05, 0.90), (1.04, 0.98, 1.25), (1.08, 1.08, 1.16), (1.12, 0.94, 0.88), (1.12, 1.00, 1.24), (1.18, 0.90, 1.10),
        (0.86, 1.04, 0.68), (0.94, 1.10, 0.82),
        (0.82, 1.06, 0.66), (0.90, 0.98, 0.72), (0.98, 1.14, 0.80), (1.02, 1.02, 1.10), (1.10, 0.97, 1.20), (1.15, 1.03, 0.96))]
    return plain + made


def _flite() -> list[Speaker]:
    return [Speaker("flite", v, w, s) for v in ("slt", "rms", "kal16", "awb") for w, s in ((0.9, 1.1), (1.0, 1.0), (1.12, 0.92))]


def _espeak() -> list[Speaker]:
    voices = ("en-us+m1", "en-us+m3", "en-us+f2", "en-us+f4", "en-gb+m7", "en-gb+f1", "en-us+klatt2", "en-us+m6", "en-us+f5",
              "en-gb+m4", "en-us+klatt4", "en-us+m2", "en-us+f3", "en-gb+m5")
    return [Speaker("espeak", v, 1.0, 0.9 + 0.06 * (n % 4)) for n, v in enumerate(voices)]


def _piper() -> list[Speaker]:
    return [Speaker("piper", "joe", w, s) for w, s in ((0.92, 1.1), (1.0, 1.0), (1.1, 0.95), (1.2, 0.9), (0.86, 1.12))]


def _kokoro() -> list[Speaker]:
    voices = ("am_adam", "am_eric", "am_onyx", "bm_lewis", "af_bella", "af_river", "af_sky", "bf_alice", "am_michael", "bf_emma",
              "bm_george")
    return [Speaker("kokoro", v) for v in voices]


def _asterisk() -> list[Speaker]:
    return [Speaker("asterisk", "allison", w) for w in (1.0, 0.93, 1.08)]


def _foreign() -> list[Speaker]:
    kinds = ("m1", "m3", "f2", "f4", "m7", "f1")
    return [Speaker("espeak", f"{language}+{kind}", 1.0, 0.92, language=language) for language in ("fr", "es") for kind in kinds]


SPEAKERS: tuple[Speaker, ...] = (*_hibari(), *_flite(), *_espeak(), *_piper(), *_kokoro(), *_asterisk(), *_foreign())
_TEST = {("hibari", n) for n in range(25, 31)} | {("flite", n) for n in range(9, 12)} | {("espeak", n) for n in range(11, 14)} | {
    ("piper", 4)} | {("kokoro", n) for n in range(8, 11)} | {("espeak", 19), ("espeak", 25)}


def _held_out() -> frozenset[str]:
    seen: dict[str, int] = {}
    names = set()
    for speaker in SPEAKERS:
        number = seen.setdefault(speaker.engine, 0)
        seen[speaker.engine] += 1
        if (speaker.engine, number) in _TEST:
            names.add(speaker.name)
    return frozenset(names)


HELD_OUT = _held_out()
"""Names of the speakers of the test split."""


def of_split(split: str, engine: str | None = None, language: str = "en") -> list[Speaker]:
    """The speakers of a split, in their fixed order."""
    return [s for s in SPEAKERS if (s.name in HELD_OUT) == (split == "test") and s.language == language
            and engine in (None, s.engine)]
