"""What a stage makes of its samples: text alone, one voice, exchanged voices, text masked or moved, the user's sound changed.

Every choice is a pure function of (seed, position), so that a resumed run and a run on another number of processes see the
same samples (arXiv:2410.00037, sections 4.2 to 4.4).

K rows: text, the system's codebooks, the user's; T frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from duplex.audio import read_audio
from duplex.codec import MimiCodec
from duplex.config import LMConfig
from duplex.errors import ConfigError, InputError
from duplex.streams import ZERO_TOKEN, StreamLayout
from duplex.text import TextTokenizer, words_to_row
from duplex.units import FRAME_SAMPLES, seconds_to_frames
from train.corpus.plan import Plan
from train.corpus.render import channel
from train.data import ShardSource, Source
from train.order import sample_index
from train.prepare import read_words
from train.recipe import AugmentSettings, DataSettings
from train.shards import ShardSet


class TextSource:
    """Text alone from shards of one row: crops of ``frames`` tokens, one token a frame, all audio rows unknown."""

    def __init__(self, shards: ShardSet, config: LMConfig, frames: int, seed: int):
        self.crops = ShardSource(shards, frames, seed)
        self.rows, self.metadata = config.num_rows, shards.metadata

    def sample(self, position: int) -> Tensor:
        """int64 [K, frames]."""
        text_1T = self.crops.sample(position)
        if len(text_1T) != 1:
            raise InputError(f"{self.crops.shards.folder}: not shards of text alone; make them with python -m train.text")
        codes = torch.full((self.rows, text_1T.shape[1]), ZERO_TOKEN)
        codes[0] = text_1T[0]
        return codes


class StageSource:
    """Samples of ``source`` as the [data] table of a recipe asks for them.

    With ``heard`` there is one row more, the words that the user said (`train.coded.heard_row`), unknown where the source has
    none.
    """

    def __init__(self, source: Source, config: LMConfig, settings: DataSettings, seed: int, heard: bool = False):
        self.source, self.settings, self.seed, self.heard = source, settings, seed, heard
        self.layout = StreamLayout.from_config(config)
        self.shift = seconds_to_frames(settings.text_shift)
        self.metadata = source.metadata

    def sample(self, position: int) -> Tensor:
        """int64 [K, frames]."""
        s, layout = self.settings, self.layout
        rng = np.random.default_rng((self.seed, 6, position))
        swap, mask = rng.random() < s.swap_share, rng.random() < s.text_mask
        shift = int(rng.integers(-self.shift, self.shift + 1))
        sample = self.source.sample(position)
        known = layout.n_rows if len(sample) == layout.n_rows + self.heard else len(sample)
        codes, heard = self.rows(sample[:known]), sample[known:]
        text = layout.text_row
        if swap:
            codes = layout.swap(codes)
            codes[text] = ZERO_TOKEN
            heard = heard[:0]
        if s.kind == "single":
            codes[layout.user_rows] = ZERO_TOKEN
        if mask:
            codes[text] = ZERO_TOKEN
        elif shift:
            codes[text] = moved(codes[text], shift)
        if not self.heard:
            return codes
        return torch.cat([codes, heard if len(heard) else torch.full_like(codes[:1], ZERO_TOKEN)])

    def rows(self, codes: Tensor) -> Tensor:
        """`codes` [K', T] with the model's K rows: a recording of one voice has no user rows, and they stay unknown."""
        wanted, have = self.layout.n_rows, len(codes)
        if have == wanted:
            return codes.clone()
        if have == 1 + self.layout.n_system and self.settings.kind == "single":
            return torch.nn.functional.pad(codes, (0, 0, 0, wanted - have), value=ZERO_TOKEN)
        raise ConfigError(f"the shards have {have} rows but the recipe's model has {wanted}; prepare them with "
                          f"--codebooks {self.layout.n_system}" + (", or set data.kind to 'single'" if have < wanted else ""))


def moved(row_T: Tensor, frames: int) -> Tensor:
    """A row moved later by ``frames`` (earlier where negative); what it leaves is unknown."""
    out = torch.full_like(row_T, ZERO_TOKEN)
    T = len(row_T)
    if abs(frames) < T:
        out[max(0, frames) : T + min(0, frames)] = row_T[max(0, -frames) : T - max(0, frames)]
    return out


class SoundSource:
    """Dialogues as sound (NAME.wav with NAME.json), cropped, the user's channel augmented, then encoded."""

    def __init__(self, folder: Path, codec: MimiCodec, tokenizer: TextTokenizer, frames: int, seed: int,
                 augment: AugmentSettings | None, metadata: dict[str, str]):
        self.stems = sorted(p.with_suffix("") for p in folder.glob("*.wav") if not p.name.endswith(".part.wav"))
        if not self.stems:
            raise InputError(f"{folder}: no wav files; give the folder of one split")
        self.codec, self.tokenizer, self.frames, self.seed = codec, tokenizer, frames, seed
        self.augment, self.metadata = augment, metadata

    def sample(self, position: int) -> Tensor:
        """int64 [K, frames]."""
        stem = self.stems[sample_index(self.seed, position, len(self.stems))]
        rng = np.random.default_rng((self.seed, 7, position))
        pcm = read_audio(stem.with_suffix(".wav"))
        if pcm.shape[0] != 2:
            raise InputError(f"{stem}.wav: has {pcm.shape[0]} channel(s); two are needed (left system, right user)")
        total = pcm.shape[1] // FRAME_SAMPLES
        first = int(rng.integers(0, max(0, total - self.frames) + 1))
        taken = min(self.frames, total)
        row = words_to_row(read_words(stem.with_suffix(".json")), total, self.tokenizer)
        text_T = torch.from_numpy(row[first : first + taken])
        system, user = pcm[:, first * FRAME_SAMPLES : (first + taken) * FRAME_SAMPLES]
        if self.augment is not None:
            user = augmented(user, system, self.augment, rng)
        device = next(self.codec.mimi.parameters()).device
        sound = torch.from_numpy(np.stack([system, user])[:, None].astype(np.float32)).to(device)
        codes = self.codec.encode(sound).cpu()
        whole = torch.cat([text_T[None].long(), codes[0], codes[1]])
        return torch.nn.functional.pad(whole, (0, self.frames - taken), value=ZERO_TOKEN)


def augmented(user: np.ndarray, system: np.ndarray, settings: AugmentSettings, rng: np.random.Generator) -> np.ndarray:
    """The user's channel float32 [S] after gain, noise, and the system's echo with reverberation, each by its share."""
    s, plan = settings, Plan(noise_seed=int(rng.integers(2**32)))
    gain, noise, echo = rng.random(3)
    if gain < s.gain_share:
        plan.gain = 10 ** (rng.uniform(*s.gain_db) / 20)
    if noise < s.noise_share:
        plan.snr_noise = rng.uniform(*s.noise_db)
    if echo < s.echo_share:
        plan.echo = rng.uniform(*s.echo_scale), rng.uniform(*s.echo_delay)
        plan.reverb = rng.uniform(*s.reverb_seconds)
    return channel(plan, user, system).astype(np.float32)
