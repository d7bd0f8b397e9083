"""Whatever can be put to the test: it is played recordings and gives back its sound, and its words where it tells them.

A checkpoint, a running server (`benchmarks.remote`), a folder of finished outputs (`benchmarks.folders`), and the controls that
every table needs: a system that is always silent, one that always talks, one that waits for 0.7 s of silence as a turn-based
assistant does, and an oracle that knows what happens and does the right thing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.clips import Clips
from benchmarks.items import Item
from benchmarks.rollout import rollouts
from duplex.checkpoint import LoadedModel
from duplex.config import SamplingConfig
from duplex.errors import ConfigError
from duplex.session import Session
from duplex.text import Word
from duplex.units import FRAME_SAMPLES, seconds_to_samples
from duplex.vad import EnergyVad

END_POINT_FRAMES = 9  # 0.72 s, the first multiple of a frame beyond 0.7 s
CANNED = "i am duplex. i can count, add numbers and tell stories."
TALK = ("one night, a little star fell into a garden. a girl put it in a glass of water and gave it a name. in the morning the "
        "star was gone, but the water never stopped to shine.")


BY_TEXT = ("name_recall", "order_recall")
"""Tasks that are judged by the text alone: nothing needs to be decoded for them."""


@dataclass(frozen=True)
class Response:
    """What a system did with one item."""

    pcm: np.ndarray
    """float32 [T * 1920], as long as the item's recording."""
    words: tuple[Word, ...] = ()
    """Its own text with times, where it gives one."""
    error: str = ""
    """Why this item cannot be scored; it is then left out of the means, and counted."""


class System(Protocol):
    """Something that converses."""

    name: str
    has_text: bool
    """Does it tell its words itself (an inner monologue or a transcript)?"""

    def respond(self, items: Sequence[Item]) -> list[Response]:
        """One response an item, in order. Never raises for a single item: its response says what is wrong."""
        ...


class ModelSystem:
    """A checkpoint on this machine, many conversations at once."""

    has_text = True

    def __init__(self, model: LoadedModel, name: str = "model", sampling: SamplingConfig | None = None, batch: int = 64,
                 seed: int = 0, progress: Callable[[int, int], None] | None = None):
        self.model, self.name, self.sampling, self.batch, self.seed, self.progress = model, name, sampling, batch, seed, progress
        try:
            Session(model)
            self.unfit = ""
        except ConfigError as error:  # without a stream for the user, say, or with another model's codec
            self.unfit = str(error)

    def respond(self, items: Sequence[Item]) -> list[Response]:
        if self.unfit:
            return [Response(np.zeros_like(item.user), error=f"{item.name}: {self.unfit}") for item in items]
        silent = bool(items) and all(item.task in BY_TEXT for item in items)
        found = rollouts(self.model, [item.user for item in items], [self.seed * 100_000 + item.seed for item in items],
                         sampling=self.sampling, batch=self.batch, decode=not silent, progress=self.progress)
        return [Response(np.zeros_like(item.user) if silent else run.pcm, run.words)
                for item, run in zip(items, found, strict=True)]


class Control:
    """A system that follows a simple rule. ``rule`` gives the lines that it says in an item: (start, end, name) in seconds."""

    has_text = True

    def __init__(self, name: str, clips: Clips, rule: Callable[[Item], list[tuple[float, float, str]]]):
        self.name, self.clips, self.rule = name, clips, rule

    def respond(self, items: Sequence[Item]) -> list[Response]:
        return [self._perform(item) for item in items]

    def _perform(self, item: Item) -> Response:
        track, words = np.zeros(len(item.user), np.float32), []
        for start, end, name in self.rule(item):
            said = self.clips.system(name)
            if said is None:
                continue
            first = seconds_to_samples(start)
            part = said.samples[: max(0, min(seconds_to_samples(end - start), len(track) - first))]
            track[first : first + len(part)] += part
            spoken = said.words or _even(name, said.seconds)
            words += [Word(w.text, start + w.start, start + w.end) for w in spoken if w.start < end - start]
        return Response(track, tuple(w for w in words if w.start < item.seconds))


def _even(name: str, seconds: float) -> tuple[Word, ...]:
    """Words spread evenly, for an engine that does not tell their times."""
    words = name.split("|")[0].split()
    step = seconds / max(1, len(words))
    return tuple(Word(word, n * step, (n + 1) * step) for n, word in enumerate(words))


def controls(clips: Clips) -> list[Control]:
    """The systems that every table shows beside the one in question."""
    return [Control("always silent", clips, lambda item: []), Control("always talking", clips, _talking(clips)),
            Control("VAD end-pointer", clips, _end_pointer(clips)), Control("oracle", clips, _oracle)]


def _talking(clips: Clips) -> Callable[[Item], list[tuple[float, float, str]]]:
    seconds = clips.system(TALK).seconds + 0.1

    def rule(item: Item) -> list[tuple[float, float, str]]:
        return [(n * seconds, (n + 1) * seconds, TALK) for n in range(int(item.seconds / seconds) + 1)]

    return rule


class EndPointer:
    """Answers after 0.72 s of silence with one canned line, and stops as soon as it hears 0.24 s of speech."""

    def __init__(self, clips: Clips):
        self._vad, self._frames = EnergyVad(), round(clips.system(CANNED).seconds / 0.08)
        self._heard, self._quiet, self._run = False, 0, 0
        self._left: int | None = None

    def push(self, pcm: np.ndarray) -> bool:
        """Hears a frame, float32 [1920]; says whether it speaks after it."""
        active = self._vad.push(pcm)
        self._run, self._quiet = (self._run + 1, 0) if active else (0, self._quiet + 1)
        if self._left is not None:
            if self._run >= 3 or self._left == 0:
                self._left, self._heard = None, self._run >= 3
            else:
                self._left -= 1
        elif self._heard and self._quiet >= END_POINT_FRAMES:
            self._left = self._frames
        else:
            self._heard = self._heard or self._run >= 2
        return self._left is not None


def _end_pointer(clips: Clips) -> Callable[[Item], list[tuple[float, float, str]]]:
    def rule(item: Item) -> list[tuple[float, float, str]]:
        ear, said, began = EndPointer(clips), [], None
        for number, pcm in enumerate(item.user.reshape(-1, FRAME_SAMPLES)):
            speaks = ear.push(pcm)
            if began is None and speaks:
                began = number + 1
            elif began is not None and not speaks:
                said.append((began * 0.08, (number + 1) * 0.08, CANNED))
                began = None
        return said + ([(began * 0.08, item.seconds, CANNED)] if began is not None else [])

    return rule


def _oracle(item: Item) -> list[tuple[float, float, str]]:
    return [(line.start, item.seconds if line.stop is None else line.stop, line.name) for line in item.ideal]
