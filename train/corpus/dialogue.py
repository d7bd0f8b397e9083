"""Dialogues of one split from a library of clips: plan, and render as sound."""

from __future__ import annotations

import random
from collections.abc import Mapping

from train.corpus.casting import Casting
from train.corpus.layout import Layout, written
from train.corpus.phenomena import Phenomena
from train.corpus.plan import Dialogue, Library, Placement, Plan
from train.corpus.render import render

__all__ = ["Composer", "Dialogue", "Library", "Phenomena", "Placement", "Plan", "render", "written"]


class Composer:
    """Builds dialogues of one split ("train" or "test") from a library of clips; `weights` of scenarios in place of their own."""

    def __init__(self, library: Library, phenomena: Phenomena, split: str, weights: Mapping[str, float] | None = None):
        self.library, self.phenomena, self.split, self.weights = library, phenomena, split, weights or {}
        self.casting = Casting(library, split)

    def plan(self, seed: str, seconds: float) -> Plan:
        """One dialogue of exactly ``seconds``; equal seeds give equal plans."""
        return Layout(self.casting, self.phenomena, self.split, random.Random(seed), seconds, self.weights).run()

    def compose(self, seed: str, seconds: float) -> Dialogue:
        """The plan of a seed, rendered as sound; equal seeds give equal samples. The library must be a `Bank`."""
        return render(self.library, self.plan(seed, seconds), seconds)
