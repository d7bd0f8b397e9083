"""Crops of speech for codec training, and the teacher's features that its semantic codebook is distilled from."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from duplex.units import FRAME_SAMPLES, SAMPLE_RATE
from train.corpus.bank import Bank, Clip
from train.corpus.speakers import HELD_OUT
from train.corpus.voices import resample_mono

TEACHER_HOP = 480  # the teacher gives one vector for 20 ms
TEACHER_RATE = 16_000
WINDOW_SECONDS = 30.0
SYSTEM_SPEAKER = "hibari:heart"


def whisper_encoder(folder: str | Path, threads: int = 1):
    """A function float32 [S] at 16 kHz, at most 30 s -> features [1500, D] of a Whisper encoder (CTranslate2 folder)."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True)

    def encode(samples: np.ndarray) -> np.ndarray:
        mel = model.feature_extractor(samples, padding=True)[:, :3000]
        mel = np.pad(mel, ((0, 0), (0, 3000 - mel.shape[1])))
        return np.array(model.encode(mel)).astype(np.float32)[0]

    return encode


def teacher_features(bank: Bank, encoder, out: Path, share: float = 1.0, dims: int = 96) -> None:
    """Write ``out``/features.npy float16 [N, dims] and ``out``/starts.npy [clips + 1], 20 ms a row, clip after clip,
    and which clips they are in clips.json. ``share`` of the user clips are taken (a fixed choice), and all others.

    Clips are laid end to end in windows of 30 s; the features are centred and reduced to their main ``dims`` components.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[np.ndarray] = []
    basis = mean = None
    pending: list[tuple[int, int]] = []  # (first row in the window, rows)
    window: list[np.ndarray] = []
    filled = 0
    sample: list[np.ndarray] = []
    started = time.monotonic()

    def flush() -> None:
        nonlocal filled, basis, mean
        if not window:
            return
        features = encoder(resample_mono(np.concatenate(window), SAMPLE_RATE, TEACHER_RATE))
        for first, count in pending:
            rows.append(features[first : first + count])
        if basis is None:
            sample.append(features[: filled // TEACHER_HOP])
            if len(sample) == 20:
                stack = np.concatenate(sample)
                mean = stack.mean(0)
                basis = np.linalg.svd(stack - mean, full_matrices=False)[2][:dims].T
        window.clear()
        pending.clear()
        filled = 0

    rng = random.Random(0)
    clips = [c for c in bank.clips if rng.random() < share or c.role != "user" or c.engine == "asterisk"]
    total = len(clips)
    for number, clip in enumerate(clips):
        samples = bank.samples(clip)[: int(WINDOW_SECONDS * SAMPLE_RATE)]
        samples = np.pad(samples, (0, -len(samples) % TEACHER_HOP))
        if filled + len(samples) > WINDOW_SECONDS * SAMPLE_RATE:
            flush()
        gap = np.zeros(10 * TEACHER_HOP, np.float32)
        pending.append((filled // TEACHER_HOP, len(samples) // TEACHER_HOP))
        window.extend((samples, gap))
        filled += len(samples) + len(gap)
        if number % 100 == 99:
            left = (time.monotonic() - started) / (number + 1) * (total - number - 1) / 60
            print(f"\rteacher: {number + 1}/{total} clips, {left:.1f} min left", end="", file=sys.stderr, flush=True)
    flush()
    if basis is None:
        stack = np.concatenate(rows)
        mean, basis = stack.mean(0), np.linalg.svd(stack - stack.mean(0), full_matrices=False)[2][:dims].T
    (out / "clips.json").write_text(json.dumps([[c.engine, c.offset] for c in clips]))
    reduced = [((r - mean) @ basis).astype(np.float16) for r in rows]
    np.save(out / "starts.npy", np.cumsum([0, *map(len, reduced)]))
    np.save(out / "features.npy", np.concatenate(reduced))


class FrameLabels:
    """Rows of 20 ms for clips of a bank, as train.teach and train.phones write them: a teacher's features or phone numbers."""

    def __init__(self, folder: Path, name: str):
        self.rows = np.load(folder / name, mmap_mode="r")
        starts = np.load(folder / "starts.npy").tolist()
        keys = [tuple(key) for key in json.loads((folder / "clips.json").read_text())]
        self.spans: dict[tuple[str, int], tuple[int, int]] = dict(zip(keys, zip(starts, starts[1:], strict=False), strict=True))

    def of(self, clip: Clip) -> np.ndarray | None:
        """The rows of a clip; None where it has none (a bank may grow after its teacher ran)."""
        span = self.spans.get((clip.engine, clip.offset))
        return None if span is None else np.asarray(self.rows[slice(*span)])


@dataclass(frozen=True)
class Batch:
    """Crops of ``frames`` frames of 80 ms, B of them."""

    pcm: Tensor
    """float32 [B, 1, frames * 1920]."""
    features: Tensor | None
    """float32 [B, frames, D]: the teacher's, averaged over each frame."""
    known: Tensor
    """bool [B, frames]: the whole frame has features."""
    phones: Tensor | None
    """int64 [B, frames, 4]: phone of each 20 ms, -1 where it is not known."""
    heard: Tensor | None = None
    """int64 [B, frames]: what was said, a little later (`train.coded.heard_row`); -1 in the system's crops."""
    own: Tensor | None = None
    """bool [B, frames]: the system's voice, or nobody's."""


class Crops:
    """Random crops of the bank, ``system_share`` of them the system's voice, with silence around short clips.

    ``lines_only``: of the system's voice only the lines of the scripts count as such, not its free text. ``stretch``: half
    of the other voices' crops are played faster or slower by up to this share, pitch and formants moving with the speed.
    """

    def __init__(self, bank: Bank, teacher: Path | None, system_share: float, lines_only: bool = False,
                 phones: Path | None = None, stretch: float = 0.0):
        self.bank, self.system_share, self.stretch = bank, system_share, stretch
        groups: dict[str, list[int]] = {"system": [], "other": []}
        for i, clip in enumerate(bank.clips):
            if clip.role == "user" and clip.speaker in HELD_OUT:
                continue
            own = clip.role == "system" or (clip.speaker == SYSTEM_SPEAKER and not lines_only)
            groups["system" if own else "other"].append(i)
        self.groups = {k: (np.array(v), np.cumsum(shares_of(bank.clips, v))) for k, v in groups.items() if v}
        self.teacher = FrameLabels(teacher, "features.npy") if teacher else None
        self.phones = FrameLabels(phones, "labels.npy") if phones else None
        self.feature_dims = self.teacher.rows.shape[1] if self.teacher else 0

    def batch(self, generators: Sequence[np.random.Generator], frames: int) -> Batch:
        """One crop of ``frames`` frames for each generator, drawn from that one alone."""
        size = len(generators)
        pcm = np.zeros((size, frames * FRAME_SAMPLES), np.float32)
        features = np.zeros((size, frames * 4, max(1, self.feature_dims)), np.float32)
        known = np.zeros((size, frames * 4), bool)
        phones = np.full((size, frames * 4), -1, np.int64)
        for row, rng in enumerate(generators):
            kind, clip, speed = self.draw(rng)
            samples = stretched(self.bank.samples(clip), speed)
            # Where the crop starts within the clip, in teacher steps of 20 ms; negative: silence first.
            lead = int(rng.integers(-frames * 2, max(1, len(samples) // TEACHER_HOP - frames)))
            _lay(pcm[row], samples, lead * TEACHER_HOP)
            if self.teacher and (rows := self.teacher.of(clip)) is not None:
                rows = rows[_nearest(len(rows), speed)]
                _lay(features[row], rows, lead)
                _lay(known[row], np.ones(len(rows), bool), lead)
            if self.phones and (labels := self.phones.of(clip)) is not None:
                phones[row] = 0  # around the clip there is silence
                _lay(phones[row], labels[_nearest(len(labels), speed)], lead)
            disturb(pcm[row], kind, rng)
        whole = torch.from_numpy(known.reshape(size, frames, 4).all(-1))
        averaged = torch.from_numpy(features.reshape(size, frames, 4, -1).mean(2)) if self.teacher else None
        pcm_t = torch.from_numpy(np.clip(pcm, -1, 1))[:, None]
        return Batch(pcm_t, averaged, whole, torch.from_numpy(phones.reshape(size, frames, 4)) if self.phones else None)

    def draw(self, rng: np.random.Generator) -> tuple[str, Clip, float]:
        """Whose voice ("system" or "other"), one of its clips, every second of sound being as likely, and how fast to play it."""
        kind = "system" if rng.random() < self.system_share or "other" not in self.groups else "other"
        indices, shares = self.groups.get(kind) or next(iter(self.groups.values()))
        clip = self.bank.clips[int(indices[min(np.searchsorted(shares, rng.random()), len(indices) - 1)])]
        speed = 1.0
        if kind == "other" and self.stretch and rng.random() < 0.5:
            speed = 1.0 + rng.uniform(-self.stretch, self.stretch)
        return kind, clip, speed


def disturb(pcm: np.ndarray, kind: str, rng: np.random.Generator) -> None:
    """Louder or softer, and half of the other voices with noise, in place."""
    if kind == "other" or rng.random() < 0.3:
        pcm *= 10 ** rng.uniform(-0.7, 0.25)
    if kind == "other" and rng.random() < 0.5:
        pcm += rng.standard_normal(len(pcm)).astype(np.float32) * 10 ** rng.uniform(-4.5, -2.3)


def _nearest(length: int, speed: float) -> np.ndarray:
    """Which of ``length`` rows lies at each position when they are played ``speed`` times as fast."""
    return np.minimum((np.arange(int(length / speed)) * speed).astype(np.int64), length - 1)


def stretched(samples: np.ndarray, speed: float) -> np.ndarray:
    """Samples played ``speed`` times as fast, by linear interpolation: good enough to vary a voice."""
    if speed == 1.0:
        return samples
    return np.interp(np.arange(int(len(samples) / speed)) * speed, np.arange(len(samples)), samples).astype(np.float32)


def shares_of(clips: list[Clip], indices: list[int]) -> np.ndarray:
    """Probability of each clip, in proportion to its length, so that every second is as likely."""
    lengths = np.array([clips[i].samples for i in indices], np.float64)
    return lengths / lengths.sum()


def _lay(target: np.ndarray, source: np.ndarray, lead: int) -> None:
    """Copy ``source`` from position ``lead`` on into ``target``; a negative lead leaves zeros first."""
    skip, place = max(0, lead), max(0, -lead)
    count = min(len(target) - place, len(source) - skip)
    if count > 0:
        target[place : place + count] = source[skip : skip + count]
