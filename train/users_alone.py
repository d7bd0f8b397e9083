"""Samples of nothing but users' speech: a small model learns to hear sooner from those than from dialogues alone.

Of a dialogue a quarter is the user's speech. Here clip follows clip, of whoever was encoded, while the system keeps silent. What
it should have done is no target: the text row is unknown, and the model sees a PAD in its place (`train.chances.as_if_silent`).
What is learnt is to name the words (`train.listening`), and to go on being silent.
"""

from __future__ import annotations

import numpy as np
import torch

from duplex.errors import InputError
from duplex.streams import ZERO_TOKEN
from duplex.text import TextTokenizer, Word
from duplex.units import FRAME_SECONDS, seconds_to_frames
from train.coded import LEVELS_DB, CodedBank, CodedClip, heard_row
from train.corpus.exchange import STYLES, split_key

GAP = (0.24, 0.9)  # seconds between two clips


class ListeningSource:
    """Endless samples of users' clips in a row. A sample depends on (seed, p), the bank and the frames alone.

    InputError when no clip of the bank has word times.
    """

    def __init__(self, bank: CodedBank, tokenizer: TextTokenizer, frames: int, seed: int):
        self.bank, self.tokenizer, self.frames, self.seed = bank, tokenizer, frames, seed
        self.clips = [[c for c in bank.at_level(n).clips if c.role == "user" and split_key(c.text)[1] in ("", *STYLES)
                       and bank.timing(c)[1]] for n in range(len(LEVELS_DB))]
        self.levels = [n for n, clips in enumerate(self.clips) if clips]
        if not self.levels:
            raise InputError(f"{bank.folder}: no clip of a user has word times; make the bank without --no-align")
        self.metadata = bank.metadata | {"vocabulary": str(tokenizer.vocab_size)}

    def sample(self, position: int) -> torch.Tensor:
        """int64 [1 + 2K + 1, frames]: unknown text, a silent system, the user, and the words (`train.coded.heard_row`)."""
        rng = np.random.default_rng((self.seed, 9, position))
        level = self.levels[int(rng.integers(0, len(self.levels)))]
        system, user = (self.bank.background(n, self.frames, rng) for n in (0, level))
        words: list[Word] = []
        at = int(rng.integers(1, 13))
        while at < self.frames:
            clip: CodedClip = self.clips[level][int(rng.integers(0, len(self.clips[level])))]
            codes = self.bank.codes(clip)[:, : self.frames - at]
            user[:, at : at + codes.shape[1]] = codes
            length, spoken = self.bank.timing(clip)
            begin = at * FRAME_SECONDS
            words += [Word(w.text, begin + w.start, begin + w.end) for w in spoken]
            at += max(1, seconds_to_frames(length + rng.uniform(*GAP)))
        text = np.full((1, self.frames), ZERO_TOKEN)
        heard = heard_row(words, self.frames, self.tokenizer)
        return torch.from_numpy(np.concatenate([text, system, user, heard[None]]).astype(np.int64))
