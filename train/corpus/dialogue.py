"""Dialogues of one split from a library of clips: plan, and render as sound."""

from __future__ import annotations

import random

from train.corpus.casting import Casting
from train.corpus.layout import Layout, written
from train.corpus.phenomena import Phenomena
from train.corpus.plan import Dialogue, Library, Placement, Plan
from train.corpus.render import render

__all__ = ["Composer", "Dialogue", "Library", "Phenomena", "Placement", "Plan", "render", "written"]


class Composer:
    """Builds dialogues of one split ("train" or "test") from a library of clips."""

    def __init__(self, library: Library, phenomena: Phenomena, split: str):
        self.library, self.phenomena, self.split = library, phenomena, split
        self.casting = Casting(library, split)

    def plan(self, seed: str, seconds: float) -> Plan:
        """One dialogue of exactly ``seconds``; equal seeds give equal plans."""
        return Layout(self.casting, self.phenomena, self.split, random.Random(seed), seconds).run()

    def compose(self, seed: str, seconds: float) -> Dialogue:
        """The plan of a seed, rendered as sound; equal seeds give equal samples. The library must be a `Bank`."""
        return render(self.library, self.plan(seed, seconds), seconds)
