"""The native codec streams against the upstream streaming module: equal codes, the same sound to rounding."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from duplex.checkpoint import load_model
from duplex.codec import MimiCodec, MimiConfig, build_mimi
from duplex.errors import ConfigError, InputError
from duplex.fast.codec import NativeCodec
from duplex.testing import scripted_speech
from duplex.units import FRAME_SAMPLES

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="the native kernels need a C++ compiler (Debian: g++)")
SMALL = MimiConfig(dimension=32, n_filters=4, codebook_dim=16, n_codebooks=6, cardinality=64, num_heads=2, num_layers=2,
                   dim_feedforward=64, context=10)
OTHERS = {
    "small": SMALL,
    "three residual blocks": MimiConfig(**{**SMALL.to_dict(), "n_residual_layers": 3, "ratios": (8, 6, 5, 4), "context": 7}),
    "other strides": MimiConfig(**{**SMALL.to_dict(), "ratios": (6, 5, 4, 4, 2), "n_filters": 3, "num_heads": 4, "compress": 1}),
}


def random_codec(config: MimiConfig, books: int = 4) -> MimiCodec:
    """A codec with random weights that do not shrink the signal on its way, so that its codes vary."""
    torch.manual_seed(0)
    mimi = build_mimi(config, books)
    for module in mimi.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.05)
        if hasattr(module, "embedding_sum"):
            nn.init.normal_(module.embedding_sum, std=8.0)
        if hasattr(module, "scale"):
            nn.init.constant_(module.scale, 0.5)
    return MimiCodec(mimi, config)


def sound(rows: int, frames: int) -> torch.Tensor:
    """[B, 1, T * 1920]: noise that comes and goes, each row another."""
    generator = torch.Generator().manual_seed(frames)
    loudness = torch.rand(rows, 1, frames, generator=generator).repeat_interleave(FRAME_SAMPLES, 2)
    return loudness * torch.randn(rows, 1, frames * FRAME_SAMPLES, generator=generator)


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_codes_and_sound_of_the_upstream_stream(name):
    codec = random_codec(OTHERS[name])
    theirs, ours, pcm = codec.stream(3), NativeCodec(codec).stream(3), sound(3, 40)
    seen = []
    for t in range(40):
        if t == 17:
            for stream in (theirs, ours):
                stream.reset_rows(torch.tensor([False, True, False]))
        active = torch.rand(3) > 0.2 if t % 2 else None
        rows = torch.ones(3, dtype=torch.bool) if active is None else active
        frame = pcm[:, :, t * FRAME_SAMPLES : (t + 1) * FRAME_SAMPLES]
        codes, mine = theirs.encode_frame(frame, active), ours.encode_frame(frame, active)
        assert torch.equal(mine[rows], codes[rows])
        expected, heard = theirs.decode_frame(codes, active), ours.decode_frame(codes, active)
        assert (heard - expected)[rows].abs().max() <= 2e-5 * expected.abs().max()
        seen.append(codes)
    assert all(len(row.unique()) > 12 for row in torch.stack(seen, -1).transpose(0, 1).flatten(1))


@torch.no_grad()
def test_the_embedded_codec_hears_and_says_the_same():
    codec = load_model("tiny").codec
    pcm = torch.from_numpy(scripted_speech([(0.2, 1.5), (2.0, 3.8)], 4.0, hertz=140))[None, None]
    pcm = pcm + 0.002 * torch.randn(pcm.shape, generator=torch.Generator().manual_seed(0))
    ours = NativeCodec(codec).stream(1)
    frames = pcm.split(FRAME_SAMPLES, 2)
    codes = torch.stack([ours.encode_frame(frame) for frame in frames], 2)
    theirs = codec.stream(1)
    assert torch.equal(codes, torch.stack([theirs.encode_frame(frame) for frame in frames], 2))
    heard = torch.cat([ours.decode_frame(codes[:, :, t]) for t in range(codes.shape[2])], 2)
    # The stream's attention reaches one half-frame less far back than the parallel pass once the window is full.
    window = codec.config.context // 2
    assert torch.equal(codec.encode(pcm)[:, :, :window], codes[:, :, :window])
    parallel = codec.decode(codes)[..., : window * FRAME_SAMPLES]
    assert (heard[..., : window * FRAME_SAMPLES] - parallel).abs().max() < 1e-4 * parallel.abs().max()


@torch.no_grad()
def test_a_row_is_the_same_bit_for_bit_whatever_stands_beside_it():
    codec, pcm = NativeCodec(random_codec(SMALL)), sound(3, 12)
    together, alone = codec.stream(3), [codec.stream(1) for _ in range(3)]
    for t in range(12):
        frame = pcm[:, :, t * FRAME_SAMPLES : (t + 1) * FRAME_SAMPLES]
        codes = together.encode_frame(frame)
        heard = together.decode_frame(codes)
        for row, stream in enumerate(alone):
            assert torch.equal(stream.encode_frame(frame[row : row + 1])[0], codes[row])
            assert torch.equal(stream.decode_frame(codes[row : row + 1])[0], heard[row])


def test_a_stream_is_a_value():
    codec, pcm = NativeCodec(random_codec(SMALL)), sound(2, 24)
    frames = pcm.split(FRAME_SAMPLES, 2)
    stream = codec.stream(2)
    for frame in frames[:12]:
        stream.decode_frame(stream.encode_frame(frame))
    stored = {name: tensor.clone() for name, tensor in stream.to_dict().items()}
    twin, restored = stream.clone(), codec.stream(2)
    restored.load_dict(stored)
    ends = [torch.cat([s.decode_frame(s.encode_frame(frame)) for frame in frames[12:]], 2) for s in (stream, twin, restored)]
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])
    for bad in (codec.stream(1).to_dict(), {}, random_codec(SMALL).stream(2).to_dict()):
        with pytest.raises(InputError, match="stored codec state"):
            stream.load_dict(bad)


def test_wrong_input_is_refused():
    stream = NativeCodec(random_codec(SMALL)).stream(2)
    with pytest.raises(InputError, match="one codec frame"):
        stream.encode_frame(torch.zeros(2, 1, 100))
    for codes in (torch.zeros(2, 5, dtype=torch.long), torch.full((2, 4), 64), torch.zeros(1, 4, dtype=torch.long)):
        with pytest.raises(InputError):
            stream.decode_frame(codes)
    with pytest.raises(InputError, match="active"):
        stream.encode_frame(torch.zeros(2, 1, FRAME_SAMPLES), torch.ones(3, dtype=torch.bool))
    narrow = MimiConfig(**{**SMALL.to_dict(), "context": 1})
    with pytest.raises(ConfigError, match="context of 1"):
        NativeCodec(random_codec(narrow))
