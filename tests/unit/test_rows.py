"""Rows of a batch: exactly what a session of its own gives, whatever the slot and whoever the neighbours."""

import numpy as np
import pytest
import torch

from duplex.config import SamplingConfig
from duplex.errors import InputError
from duplex.policy import PolicyConfig
from duplex.session import Prompt, Session
from duplex.testing import fake_loaded_model, scripted_speech
from duplex.units import FRAME_SAMPLES

pytest.importorskip("prometheus_client", reason="the server's parts are not installed: pip install -e '.[serve]'")
from infer.server.rows import MAX_PERSONA_TOKENS, BatchedSessions  # noqa: E402

MODEL = fake_loaded_model()
SPEECH = scripted_speech([(0.2, 1.1), (1.5, 2.6)], 3.2).reshape(-1, FRAME_SAMPLES)


def same(left, right) -> bool:
    """Are two frames equal bit for bit?"""
    arrays = ("pcm", "system_codes", "user_codes")
    values = ("index", "text", "words", "events", "text_token", "text_ahead", "system_active", "user_active", "muted", "flush")
    return (all(np.array_equal(getattr(left, name), getattr(right, name)) for name in arrays)
            and all(getattr(left, name) == getattr(right, name) for name in values))


def alone(seed=7, prompt=None, policy="learned", sampling=None):
    session = Session(MODEL, sampling, seed, prompt, policy=PolicyConfig(policy))
    return [session.step(frame) for frame in SPEECH], session.finish()


def row_frames(batch, slot, frames=SPEECH, neighbours=None, rng=None):
    """The frames of one slot, while each neighbour steps now and then, with it or between its steps."""
    given = []
    while batch.preparing(slot):
        batch.step({})
    for frame in frames:
        others = {n: rng.standard_normal(FRAME_SAMPLES).astype(np.float32) * 0.1 for n in neighbours or ()
                  if rng.random() < 0.6 and not batch.preparing(n)}
        if neighbours and rng.random() < 0.3:
            batch.step(others)
        given.append(batch.step({slot: frame, **others})[slot])
    return given


@pytest.mark.parametrize("policy", ["learned", "guarded", "forced"])
@pytest.mark.parametrize("persona", [None, "a calm guide"])
def test_one_row_is_a_session(policy, persona):
    expected, ending = alone(prompt=Prompt(text=persona) if persona else None, policy=policy)
    batch = BatchedSessions(MODEL, 1)
    batch.start(0, 7, persona=persona, policy=policy)
    frames = row_frames(batch, 0)
    assert all(map(same, frames, expected)) and batch.stop(0) == ending


def test_voice_prompt_is_the_sessions():
    voice = scripted_speech([(0, 0.5)], 0.6)
    expected, _ = alone(prompt=Prompt(text="hello there", audio=voice))
    batch = BatchedSessions(MODEL, 1, voice)
    batch.start(0, 7, persona="hello there")
    assert all(map(same, row_frames(batch, 0), expected))


def test_slot_and_neighbours_change_no_bit():
    reference = None
    for slot in range(3):
        for crowd in (False, True):
            rng = np.random.default_rng(slot)
            batch = BatchedSessions(MODEL, 3)
            others = [n for n in range(3) if n != slot] if crowd else []
            for n in others:
                batch.start(n, 100 + n, text_temperature=1.3, persona="somebody else" if n == others[0] else None)
            for _ in range(4 * len(others)):
                batch.step({n: rng.standard_normal(FRAME_SAMPLES).astype(np.float32) for n in others if not batch.preparing(n)})
            batch.start(slot, 7)
            frames = row_frames(batch, slot, neighbours=others, rng=rng)
            reference = reference or frames
            assert all(map(same, frames, reference)), (slot, crowd)


def test_a_reused_slot_carries_nothing_over():
    fresh = BatchedSessions(MODEL, 2)
    fresh.start(1, 7)
    used = BatchedSessions(MODEL, 2)
    used.start(1, 3, text_temperature=1.5, audio_temperature=0.0, persona="a poet")
    row_frames(used, 1, SPEECH[::-1])
    used.stop(1)
    used.start(1, 7)
    assert all(map(same, row_frames(used, 1), row_frames(fresh, 1)))


def test_temperatures_belong_to_their_row():
    greedy, _ = alone(sampling=SamplingConfig(**{**vars(MODEL.sampling), "text_temperature": 0.0, "audio_temperature": 0.0}))
    batch = BatchedSessions(MODEL, 2)
    batch.start(0, 7, text_temperature=0.0, audio_temperature=0.0)
    batch.start(1, 7)
    mine, other = [], []
    for frame in SPEECH:
        out = batch.step({0: frame, 1: frame})
        mine.append(out[0])
        other.append(out[1])
    assert [f.text_token for f in mine] == [f.text_token for f in greedy]
    assert [f.text_token for f in other] == [f.text_token for f in alone()[0]] != [f.text_token for f in mine]


def test_a_failing_row_ends_alone(monkeypatch):
    batch = BatchedSessions(MODEL, 2)
    batch.start(0, 7)
    batch.start(1, 7)
    monkeypatch.setattr(batch._rows[0].talk, "say", lambda *_: 1 / 0)
    expected, _ = alone()
    for frame, wanted in zip(SPEECH, expected, strict=True):
        out = batch.step({0: frame, 1: frame})
        assert isinstance(out[0], ZeroDivisionError) and out[1].text_token == wanted.text_token


def test_bad_frames_change_nothing():
    batch = BatchedSessions(MODEL, 2)
    batch.start(0, 7)
    for frames in ({0: SPEECH[0].astype(np.float64)}, {0: SPEECH[0][:5]}, {1: SPEECH[0]}, {2: SPEECH[0]}):
        with pytest.raises(InputError):
            batch.step(frames)
    with pytest.raises(InputError, match="tokens"):
        batch.start(1, persona="x " * MAX_PERSONA_TOKENS)
    expected, _ = alone()
    assert [frame.text_token for frame in row_frames(batch, 0)] == [frame.text_token for frame in expected]
    assert batch.step({}) == {} and batch.stop(1) == ((), ())


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
