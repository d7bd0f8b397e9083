"""The state of a codec stream, stored and taken up again."""

from __future__ import annotations

import pytest
import torch

from duplex.codec import MimiCodec, MimiConfig, build_mimi
from duplex.errors import InputError
from duplex.testing import FakeCodec
from duplex.units import FRAME_SAMPLES

SMALL = MimiConfig(dimension=32, n_filters=4, codebook_dim=16, n_codebooks=4, cardinality=64, num_heads=2, num_layers=2,
                   dim_feedforward=64, context=10)


def small_mimi():
    torch.manual_seed(0)
    return MimiCodec(build_mimi(SMALL), SMALL)


def use(stream, frames):
    """Sound of decoding random codes, and the encoder's state after as many frames of noise."""
    generator = torch.Generator().manual_seed(frames)
    out = []
    for _ in range(frames):
        stream.encode_frame(0.1 * torch.randn(stream.batch_size, 1, FRAME_SAMPLES, generator=generator))
        out.append(stream.decode_frame(torch.randint(64, (stream.batch_size, 4), generator=generator)))
    return torch.cat(out, -1), {name: tensor.clone() for name, tensor in stream.to_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("make", [small_mimi, lambda: FakeCodec(4, 64)])
def test_a_stored_stream_goes_on_as_if_nothing_had_happened(make):
    codec = make()
    stream = codec.stream(2)
    stored = use(stream, 9)[1]
    kept = {name: tensor.clone() for name, tensor in stored.items()}
    pcm, end = use(stream, 4)  # goes on past the attention window
    assert equal(stored, kept)
    restored = codec.stream(2)
    restored.load_dict(stored)
    again, again_end = use(restored, 4)
    assert torch.equal(again, pcm) and equal(again_end, end)
    assert equal(stored, kept)  # the restored stream does not write into what it was given
    fresh, fresh_end = use(codec.stream(2), 4)
    assert not torch.equal(fresh, pcm) and not equal(fresh_end, end)


@pytest.mark.parametrize("make", [small_mimi, lambda: FakeCodec(4, 64)])
def test_the_state_of_another_stream_is_refused(make):
    codec = make()
    stored = codec.stream(1).to_dict()
    for bad in (codec.stream(2).to_dict(), {}, {**stored, "more": torch.zeros(1)}):
        with pytest.raises(InputError, match="stored codec state"):
            codec.stream(1).load_dict(bad)
