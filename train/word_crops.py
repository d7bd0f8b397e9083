"""Whole beginnings of clips with their words, for an encoder that learns to be understood (`train.reading`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from duplex.errors import InputError
from duplex.text import TextTokenizer, Word
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE
from train.codec_data import Batch, Crops, disturb, shares_of, stretched
from train.coded import heard_row
from train.corpus.bank import Bank

EARLY = 8  # a clip begins within the first so many frames of its crop


class WordCrops(Crops):
    """Clips from their first word on, and what a listener should have understood by each frame.

    InputError when the bank has no word times.
    """

    def __init__(self, bank: Bank, tokenizer: TextTokenizer, system_share: float, stretch: float = 0.0):
        super().__init__(bank, None, system_share, stretch=stretch)
        self.tokenizer = tokenizer
        for kind, (indices, _) in list(self.groups.items()):
            kept = np.array([i for i in indices if bank.clips[i].words or kind == "system"], dtype=np.int64)
            if not len(kept):
                raise InputError(f"{bank.folder}: no clip of a user has word times; make the bank without --no-align")
            self.groups[kind] = kept, np.cumsum(shares_of(bank.clips, kept))

    def batch(self, generators: Sequence[np.random.Generator], frames: int) -> Batch:
        """One crop of ``frames`` frames for each generator, drawn from that one alone."""
        size = len(generators)
        pcm = np.zeros((size, frames * FRAME_SAMPLES), np.float32)
        heard = np.full((size, frames), -1, np.int64)
        own = np.ones((size, frames), bool)
        for row, rng in enumerate(generators):
            kind, clip, speed = self.draw(rng)
            speech = self.bank.speech(clip)
            samples = stretched(speech.samples, speed)
            at = int(rng.integers(0, EARLY * FRAME_SAMPLES))
            part = samples[: len(pcm[row]) - at]
            pcm[row, at : at + len(part)] = part
            if kind == "other":
                begin = at / SAMPLE_RATE
                heard[row] = heard_row([Word(w.text, begin + w.start / speed, begin + w.end / speed) for w in speech.words],
                                       frames, self.tokenizer)
                own[row, at // FRAME_SAMPLES : (at + len(part)) // FRAME_SAMPLES + 2] = False
            disturb(pcm[row], kind, rng)
        return Batch(torch.from_numpy(np.clip(pcm, -1, 1))[:, None], None, torch.zeros(size, frames, dtype=torch.bool), None,
                     torch.from_numpy(heard), torch.from_numpy(own))
