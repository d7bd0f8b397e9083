"""Batched conversations are those of single sessions."""

import numpy as np
import pytest
import torch

from benchmarks.rollout import decode_all, encode_all, rollouts
from benchmarks.silence import silent_runs
from duplex.checkpoint import load_model
from duplex.config import SamplingConfig
from duplex.errors import InputError
from duplex.session import Session
from duplex.testing import fake_loaded_model, scripted_speech
from duplex.units import FRAME_SAMPLES


def in_sessions(model, users, seeds, sampling=None):
    """The slow way: one session after another. Gives (sound, words, text tokens) of each."""
    found = []
    for pcm, seed in zip(users, seeds, strict=True):
        session = Session(model, sampling, seed)
        frames = [session.step(frame) for frame in pcm.reshape(-1, FRAME_SAMPLES)]
        words = [w for f in frames for w in f.words] + list(session.finish()[0])
        found.append((np.concatenate([f.pcm for f in frames]), tuple(words), [f.text_token for f in frames]))
    return found


def recordings(lengths):
    return [scripted_speech([(0.2, 0.9 + 0.1 * n)], frames * FRAME_SAMPLES / 24000) for n, frames in enumerate(lengths)]


@pytest.mark.parametrize("batch", [2, 8])
def test_equal_to_sessions_of_different_lengths(batch):
    model, users = fake_loaded_model(), recordings([20, 31, 20, 12, 25])
    seeds = [5, 1, 9, 2, 7]
    together = rollouts(model, users, seeds, batch=batch)
    for ours, (pcm, words, text) in zip(together, in_sessions(model, users, seeds), strict=True):
        assert ours.text.tolist() == text
        assert ours.words == words
        assert np.allclose(ours.pcm, pcm, atol=1e-6)


@pytest.mark.parametrize("backend", ["naive", "auto"])
def test_the_embedded_model_in_a_batch_is_itself_in_sessions(backend):
    """Near ties of a trained codec may fall either way: hardly a code differs, and one cannot hear it."""
    torch.set_num_threads(1)
    model, users = load_model("tiny", backend=backend), recordings([25, 20])
    for user, ours in zip(users, rollouts(model, users, [0, 1]), strict=True):
        session = Session(model, seed=int(user is users[1]))
        frames = [session.step(frame) for frame in user.reshape(-1, FRAME_SAMPLES)]
        assert (encode_all(model, [user])[0].numpy() == np.stack([frame.user_codes for frame in frames], 1)).mean() > 0.95
        sound = decode_all(model, [np.stack([frame.system_codes for frame in frames], 1)], session.delay)[0]
        pcm = np.concatenate([frame.pcm for frame in frames])
        assert ((sound - pcm) ** 2).sum() < 1e-3 * (pcm**2).sum()
        assert len(ours.pcm) == len(pcm)


def test_one_recording_is_encoded_once_and_sound_can_be_left_out():
    model, user = fake_loaded_model(), recordings([10])[0]
    first, second = encode_all(model, [user, user])
    assert first is second
    ours = rollouts(model, [user], [0], decode=False)[0]
    assert len(ours.pcm) == 0 and ours.codes.shape == (4, 10)
    assert len(decode_all(model, [ours.codes], 1)[0]) == 10 * FRAME_SAMPLES


def test_refuses_recordings_that_are_not_whole_frames():
    model = fake_loaded_model()
    for bad in (np.zeros(100, np.float32), np.zeros((2, FRAME_SAMPLES), np.float32), np.full(FRAME_SAMPLES, np.nan, np.float32)):
        with pytest.raises(InputError):
            rollouts(model, [bad], [0])
    with pytest.raises(InputError):
        rollouts(model, recordings([10]), [0, 1])


@pytest.mark.parametrize("audio_temperature", [0.0, 0.8])
def test_silent_runs_that_share_their_past_are_computed_once_and_equal_all_the_same(audio_temperature):
    model = fake_loaded_model(3)
    pad = model.config.existing_text_padding_id
    # A random model would speak at once: make silence likely, so that runs part from each other late.
    model.lm.text_linear.weight.data.mul_(0.3)
    sampling = SamplingConfig(text_temperature=0.5, text_top_k=0, audio_temperature=audio_temperature, audio_top_k=8)
    user = np.zeros(25 * FRAME_SAMPLES, np.float32)
    seeds = list(range(12))
    reference = rollouts(model, [user] * 12, seeds, sampling=sampling, decode=False)
    spoken = {0, 3, pad}
    runs, steps = silent_runs(model, user, seeds, sampling=sampling, stop_at_words=False)
    assert [run.text.tolist() for run in runs] == [r.text.tolist() for r in reference]
    assert all(np.array_equal(run.codes, r.codes) for run, r in zip(runs, reference, strict=True))
    assert any(t not in spoken for r in reference for t in r.text[1:].tolist())
    assert steps <= 12 * 25 and (audio_temperature > 0 or steps < 12 * 25)


def test_silent_runs_stop_where_a_word_is_said():
    model = fake_loaded_model(3)
    user = np.zeros(25 * FRAME_SAMPLES, np.float32)
    runs, steps = silent_runs(model, user, [0, 1, 2])
    assert all(run.spoke_at is not None and len(run.text) < 25 for run in runs)


def test_a_model_that_is_held_says_nothing_until_it_may():
    model = fake_loaded_model(3)
    pad, user = model.config.existing_text_padding_id, np.zeros(20 * FRAME_SAMPLES, np.float32)
    free, held = rollouts(model, [user, user], [1, 1], decode=False, hold=[0, 12])
    alone = rollouts(model, [user], [1], decode=False)[0]
    assert np.array_equal(free.text, alone.text) and np.array_equal(free.codes, alone.codes)
    assert (held.text[1:11] == pad).all() and (alone.text[1:11] != pad).any() and (held.text[13:] != pad).any()
