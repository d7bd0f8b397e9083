"""Conversations in a batch: each as its own session would have had it, at its own pace."""

from __future__ import annotations

import numpy as np
import pytest

from duplex.batch import SessionBatch
from duplex.errors import InputError
from duplex.policy import POLICIES, PolicyConfig
from duplex.session import Prompt, Session
from duplex.testing import fake_loaded_model, scripted_speech
from duplex.units import FRAME_SAMPLES

MODEL = fake_loaded_model()
USERS = [scripted_speech([(start, start + 1.4)], 2.4, 300.0).reshape(-1, FRAME_SAMPLES) for start in (0.4, 0.56, 0.8)]
KINDS = [PolicyConfig(kind=kind) for kind in POLICIES]


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a) if name != "pcm") and np.allclose(
        a.pcm, b.pcm, atol=1e-6)


@pytest.mark.parametrize("prompt", [None, Prompt(text="hi")])
def test_each_row_converses_as_its_own_session_would(prompt):
    batch = SessionBatch(MODEL, [4, 5, 6], prompt=prompt, policies=KINDS)
    alone = [Session(MODEL, seed=seed, prompt=prompt, policy=kind) for seed, kind in zip((4, 5, 6), KINDS, strict=True)]
    for frame in range(30):
        # Row 1 leaves out every third step and so falls behind, without noticing.
        rows = [row for row in range(3) if row != 1 or frame % 3]
        given = {row: USERS[row][alone[row].index] for row in rows}
        found = batch.step(given)
        assert sorted(found) == rows
        for row in rows:
            assert same(found[row], alone[row].step(given[row]))
    for talk, session in zip(batch.talks, alone, strict=True):
        assert talk.finish() == session.finish() and talk.heard == session.heard


def test_nothing_to_step_and_unusable_frames():
    batch = SessionBatch(MODEL, [1, 2])
    assert batch.step({}) == {} and len(batch) == 2
    for bad in (np.zeros(3, np.float32), np.full(FRAME_SAMPLES, np.nan, np.float32)):
        with pytest.raises(InputError, match="conversation 1: a frame is"):
            batch.step({1: bad})
    with pytest.raises(InputError, match="2 policies for 3"):
        SessionBatch(MODEL, [1, 2, 3], policies=KINDS[:2])
