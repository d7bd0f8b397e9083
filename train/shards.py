"""Tokenised dialogues on disk: fixed-size shards, read without copying, in an order that is a pure function.

A shard is one safetensors file: ``codes`` int16 [K, sum of T], ``starts`` int64 [N + 1], and metadata naming the codec and
the tokenizer that made it. Row 0 is text, then the system's codebooks, then the user's. Shards are written whole or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from duplex.errors import InputError
from train.files import replace_file


def fingerprint(path: str | Path) -> str:
    """First 16 hex digits of a file's SHA-256: which codec or tokenizer a corpus was made with."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def write_shard(path: Path, dialogues: Sequence[np.ndarray], metadata: dict[str, str]) -> None:
    """Write dialogues (each int [K, T]) as one shard, atomically."""
    starts = np.cumsum([0, *(d.shape[1] for d in dialogues)]).astype(np.int64)
    codes = np.ascontiguousarray(np.concatenate(dialogues, 1).astype(np.int16))
    replace_file(path, lambda part: save_file({"codes": codes, "starts": starts}, part, metadata))


class ShardSet:
    """All dialogues of a folder of shards, in order of shard name.

    Raises InputError when there are none, when one cannot be read, or when they were made with different codecs or
    tokenizers.
    """

    def __init__(self, folder: str | Path):
        paths = sorted(Path(folder).glob("shard-*.safetensors"))
        if not paths:
            raise InputError(f"{folder}: no shards; make them with python -m train.prepare --out {folder}")
        self.codes: list[torch.Tensor] = []
        self.spans: list[tuple[int, int, int]] = []
        self.metadata: dict[str, str] | None = None
        for number, path in enumerate(paths):
            try:
                with safe_open(path, "pt") as file:
                    metadata, codes, starts = file.metadata(), file.get_tensor("codes"), file.get_tensor("starts").tolist()
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path}: not a readable shard ({error}); delete it and prepare again") from None
            if self.metadata is not None and metadata != self.metadata:
                raise InputError(f"{path}: made with another codec or tokenizer than {paths[0].name}; "
                                 "prepare again into an empty folder")
            self.metadata = metadata
            self.codes.append(codes)
            self.spans += [(number, a, b) for a, b in zip(starts, starts[1:], strict=False)]

    def __len__(self) -> int:
        return len(self.spans)

    def frames(self) -> int:
        """Frames of all dialogues together."""
        return sum(b - a for _, a, b in self.spans)

    def dialogue(self, index: int) -> torch.Tensor:
        """int64 [K, T]."""
        number, a, b = self.spans[index]
        return self.codes[number][:, a:b].long()

    def crop(self, index: int, frames: int, rng: np.random.Generator) -> torch.Tensor:
        """int64 [K, frames] from a random place; a shorter dialogue is filled up with -1 (no token, no loss)."""
        codes = self.dialogue(index)
        spare = codes.shape[1] - frames
        if spare >= 0:
            at = int(rng.integers(0, spare + 1))
            return codes[:, at : at + frames]
        return torch.nn.functional.pad(codes, (0, -spare), value=-1)


def sample_index(seed: int, position: int, size: int) -> int:
    """Which dialogue is sample number ``position`` of the endless training sequence.

    Every epoch is a fresh permutation; the result depends on nothing else, so that resuming at any position neither skips
    nor repeats a sample, and ranks take positions ``rank, rank + world, …`` of one shared sequence.
    """
    epoch, offset = divmod(position, size)
    return int(np.random.default_rng((seed, epoch)).permutation(size)[offset])
