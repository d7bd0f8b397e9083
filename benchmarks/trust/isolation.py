"""Isolation: what a seeded conversation gives, whichever slot it has, whoever its neighbours are, whoever was there before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from benchmarks.trust import Options, Promise
from benchmarks.trust.load import voice
from duplex.checkpoint import load_model
from duplex.conversation import SessionFrame
from duplex.units import FRAME_SAMPLES
from infer.server.rows import BatchedSessions

AREA = "isolation"
SLOTS = 4
SEED, HEAT = 7, 0.9
"""The conversation that is compared is sampled, text and sound: where everything is greedy, a seed would change nothing."""


def run(options: Options) -> Iterator[Promise]:
    """The model of the server in a batch of four, its frames compared bit for bit."""
    frames = 12 if options.short else 75
    model = load_model(options.model, backend="auto")
    said = voice().astype(np.float32)[:frames] / 32768
    how = f"{SLOTS} rows, {frames} frames of speech, temperatures {HEAT}; sound, tokens, text and events by SHA-256; " \
          f"{model.folder.name}, {model.backend}"
    reference = _alone(BatchedSessions(model, SLOTS), 0, said)
    batch, alike, tried = BatchedSessions(model, SLOTS), 0, 0
    for slot in range(SLOTS):
        tried += 1
        alike += _crowded(batch, slot, said, np.random.default_rng(options.seed + slot)) == reference
    yield Promise(AREA, "a seeded conversation is the same in every slot, with neighbours that come, talk and go at random",
                  "bit for bit", f"{alike} of {tried} slots alike", alike == tried, how)
    # The batch is worn by now: every slot has held conversations with personas and temperatures of their own.
    again = [_alone(batch, slot, said) == reference for slot in range(SLOTS)]
    yield Promise(AREA, "a slot that was used before carries nothing over", "bit for bit",
                  f"{sum(again)} of {len(again)} slots alike", all(again), how)
    other = _alone(batch, 0, said, SEED + 1)
    yield Promise(AREA, "the comparison can fail: another seed gives another conversation", "different",
                  "different" if other != reference else "the same", other != reference, how)


def _alone(batch: BatchedSessions, slot: int, said: np.ndarray, seed: int = SEED) -> str:
    batch.start(slot, seed, HEAT, HEAT)
    given = [batch.step({slot: frame})[slot] for frame in said]
    batch.stop(slot)
    return digest(given)


def _crowded(batch: BatchedSessions, slot: int, said: np.ndarray, rng: np.random.Generator) -> str:
    """The same conversation among neighbours that begin, speak noise at their own pace, and are replaced."""
    others = [n for n in range(batch.slots) if n != slot]
    for n in others:
        batch.start(n, int(rng.integers(1000)), text_temperature=1.3, persona="a poet" if n == others[0] else None)
    batch.start(slot, SEED, HEAT, HEAT)
    given = []
    for number, frame in enumerate(said):
        talking = {n: (0.1 * rng.standard_normal(FRAME_SAMPLES)).astype(np.float32) for n in others
                   if rng.random() < 0.6 and not batch.preparing(n)}
        given.append(batch.step({slot: frame, **talking})[slot])
        if number % 9 == 4:
            gone = int(rng.choice(others))
            batch.stop(gone)
            batch.start(gone, int(rng.integers(1000)), audio_temperature=float(rng.uniform(0, 1.5)))
    for n in range(batch.slots):
        batch.stop(n)
    return digest(given)


def digest(frames: list[SessionFrame]) -> str:
    """Everything that a client is sent of these frames, in one hash."""
    found = hashlib.sha256()
    for frame in frames:
        if isinstance(frame, Exception):
            raise frame
        for array in (frame.pcm, frame.system_codes, frame.user_codes):
            found.update(np.ascontiguousarray(array).tobytes())
        found.update(repr((frame.index, frame.text, frame.words, frame.events, frame.text_token)).encode())
    return found.hexdigest()
