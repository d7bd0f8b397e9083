"""The fakes keep the promises of what they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex.errors import InputError
from duplex.testing import ByteTokenizer, FakeCodec, fake_loaded_model, scripted_speech, silence, tiny_lm_config, tone
from duplex.units import FRAME_SAMPLES


def random_codes(seed, batch, codec, frames):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(codec.cardinality, (batch, codec.n_codebooks, frames), generator=generator)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([(1, 2), (4, 64), (8, 512), (8, 2048)]))
def test_codes_survive_their_sound(seed, size):
    codec = FakeCodec(*size)
    codes = random_codes(seed, 2, codec, 5)
    pcm = codec.decode(codes)
    assert pcm.shape == (2, 1, 5 * FRAME_SAMPLES) and pcm.dtype == torch.float32 and pcm.abs().max() <= 1
    assert torch.equal(codec.encode(pcm), codes)


def test_streams_equal_the_whole_and_own_their_state():
    codec = FakeCodec()
    codes = random_codes(0, 2, codec, 6)
    whole, stream = codec.decode(codes), codec.stream(2)
    pieces = [stream.decode_frame(codes[:, :, frame]) for frame in range(3)]
    twin = stream.clone()
    pieces += [stream.decode_frame(codes[:, :, frame]) for frame in range(3, 6)]
    assert torch.equal(torch.cat(pieces, -1), whole)
    assert torch.equal(twin.decode_frame(codes[:, :, 3]), pieces[3])
    assert torch.equal(torch.stack([stream.encode_frame(piece) for piece in pieces], -1), codes)
    twin.reset_rows(torch.tensor([True, False]))
    after = twin.decode_frame(codes[:, :, 4])
    assert torch.equal(after[1], pieces[4][1]) and torch.equal(after[0], codec.decode(codes[:, :, 4:5])[0])


def test_silence_is_code_zero_and_a_tone_is_its_codebook():
    codec = FakeCodec()
    assert not codec.encode(torch.from_numpy(silence(3))[None, None]).any()
    heard = codec.encode(torch.from_numpy(tone(0.08, 300.0))[None, None])[0, :, 0]
    assert heard[2] > 0 and not heard[[0, 1, 3]].any()


@pytest.mark.parametrize("bad", [torch.zeros(1, 4, 1, dtype=torch.long) - 1, torch.full((1, 4, 1), 64),
                                 torch.zeros(1, 3, 1, dtype=torch.long)])
def test_codes_that_are_none_are_refused(bad):
    with pytest.raises(InputError):
        FakeCodec().decode(bad)
    with pytest.raises(InputError):
        FakeCodec().stream(1).decode_frame(bad[:, :, 0])


@given(st.text())
def test_bytes_spell_any_text_word_by_word(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == " ".join(text.split())
    assert not {tokenizer.pad_id, tokenizer.epad_id} & set(ids) and max(ids, default=0) < tokenizer.vocab_size


def test_the_fake_model_is_the_same_for_a_seed_and_leaves_the_global_one_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = fake_loaded_model(3), fake_loaded_model(3), fake_loaded_model(4)
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [torch.cat([weight.flatten() for weight in model.lm.parameters()]) for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert first.config == tiny_lm_config()


def test_scripted_speech_is_silent_outside_its_spans():
    pcm = scripted_speech([(0.5, 1.0), (1.8, 3.0)], 2.0)
    assert pcm.shape == (48_000,) and pcm.dtype == np.float32
    assert not pcm[:12_000].any() and not pcm[24_000:43_200].any() and pcm[12_000:24_000].any() and pcm[43_201:].any()
