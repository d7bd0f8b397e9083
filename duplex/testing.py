"""Fakes that ship with the product, so that whatever is built on it can be tested in milliseconds.

`FakeCodec` and `ByteTokenizer` keep the promises of their protocols without any weights, streaming equal to
batch included. `fake_loaded_model` joins them with a tiny random `DuplexLM`: it runs every line of the loop and speaks
nonsense. The waveforms are made of tones that the codec can hear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from duplex.checkpoint import LoadedModel
from duplex.config import LMConfig
from duplex.errors import InputError
from duplex.model.lm import DuplexLM
from duplex.streams import StreamLayout
from duplex.text import EPAD_ID, PAD_ID
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE, frames_to_samples, seconds_to_samples

_FIRST_BYTE = 4  # ids 0..3 are EPAD, begin, end and PAD, as in Moshi's sentencepiece model


class ByteTokenizer:
    """One id per UTF-8 byte, with PAD and EPAD where Moshi has them; a word begins with a space's byte."""

    pad_id = PAD_ID
    epad_id = EPAD_ID
    vocab_size = _FIRST_BYTE + 256

    def encode(self, text: str) -> list[int]:
        return [_FIRST_BYTE + byte for word in text.split() for byte in f" {word}".encode()]

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.piece_bytes, ids)).decode(errors="replace").removeprefix(" ")

    def piece(self, token: int) -> str:
        return repr(self.piece_bytes(token))

    def piece_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.vocab_size:
            raise InputError(f"text token {token} is outside the vocabulary of {self.vocab_size}; use bytes")
        return bytes([token - _FIRST_BYTE]) if token >= _FIRST_BYTE else b""


class FakeCodec:
    """A codec whose codebook k holds the strength of a band around (k + 1) * 100 Hz, code 0 being silence.

    `encode(decode(codes)) == codes` exactly. Every other frame is decoded with its sign turned, so that a
    stream whose state is lost or shared by mistake shows in its samples. Shapes as in `duplex.codec`.
    """

    sample_rate = SAMPLE_RATE
    frame_samples = FRAME_SAMPLES

    def __init__(self, n_codebooks: int = 4, cardinality: int = 64):
        self.n_codebooks = n_codebooks
        self.cardinality = cardinality
        self.loudest = 0.8 / n_codebooks  # amplitude of the last code
        bins = 8 * torch.arange(1, n_codebooks + 1)  # whole cycles per frame
        angles_S = torch.arange(FRAME_SAMPLES, dtype=torch.float64) * (2 * np.pi / FRAME_SAMPLES)
        self._tones_KS = (bins[:, None] * angles_S).sin()

    def encode(self, pcm: Tensor) -> Tensor:
        if pcm.dim() != 3 or pcm.shape[1] != 1 or pcm.shape[2] % FRAME_SAMPLES:
            raise InputError(f"codec input has shape {list(pcm.shape)}; give [batch, 1, whole frames]")
        frames_BTS = pcm[:, 0].double().unflatten(1, (-1, FRAME_SAMPLES))
        power = torch.fft.rfft(frames_BTS).abs().square() * (2 / FRAME_SAMPLES) ** 2
        bands = [power[..., 8 * k + 4 : 8 * k + 12].sum(-1) for k in range(self.n_codebooks)]
        amplitude_BKT = torch.stack(bands, dim=1).sqrt()
        codes = (amplitude_BKT / self.loudest).sqrt() * (self.cardinality - 1)
        return codes.round().long().clamp(max=self.cardinality - 1)

    def decode(self, codes: Tensor) -> Tensor:
        return self._decode(codes, torch.zeros(codes.shape[0], dtype=torch.long))

    def stream(self, batch_size: int) -> FakeCodecStream:
        return FakeCodecStream(self, torch.zeros(batch_size, dtype=torch.long))

    def _decode(self, codes_BKT: Tensor, first_frame_B: Tensor) -> Tensor:
        if codes_BKT.dim() != 3 or codes_BKT.shape[1] != self.n_codebooks:
            raise InputError(f"codes have shape {list(codes_BKT.shape)}; use {self.n_codebooks} codebooks")
        if codes_BKT.numel() and (int(codes_BKT.min()) < 0 or int(codes_BKT.max()) >= self.cardinality):
            raise InputError(f"a code lies outside 0..{self.cardinality - 1}; use this codec's codes")
        amplitude_BKT = (codes_BKT.double() / (self.cardinality - 1)).square() * self.loudest
        frames_BTS = torch.einsum("bkt,ks->bts", amplitude_BKT, self._tones_KS)
        odd_BT = (first_frame_B[:, None] + torch.arange(codes_BKT.shape[2])) % 2
        return (frames_BTS * (1 - 2 * odd_BT[..., None])).flatten(1)[:, None].float()


class FakeCodecStream:
    """Stream of a `FakeCodec`; its state is the number of frames that each row has decoded."""

    def __init__(self, codec: FakeCodec, decoded_B: Tensor):
        self.codec, self.batch_size, self._decoded_B = codec, len(decoded_B), decoded_B

    def encode_frame(self, pcm: Tensor, active: Tensor | None = None) -> Tensor:
        return self.codec.encode(pcm)[:, :, 0]

    def decode_frame(self, codes: Tensor, active: Tensor | None = None) -> Tensor:
        pcm = self.codec._decode(codes[:, :, None], self._decoded_B)
        self._decoded_B += 1 if active is None else active.to(self._decoded_B)
        return pcm

    def reset_rows(self, mask: Tensor) -> None:
        self._decoded_B[mask] = 0

    def clone(self) -> FakeCodecStream:
        return FakeCodecStream(self.codec, self._decoded_B.clone())

    def to_dict(self) -> dict[str, Tensor]:
        return {"decoded": self._decoded_B}

    def load_dict(self, tensors: Mapping[str, Tensor]) -> None:
        if set(tensors) != {"decoded"} or tensors["decoded"].shape != self._decoded_B.shape:
            raise InputError("the stored codec state is not that of a fake codec; use the codec it was stored with")
        self._decoded_B = tensors["decoded"].clone()


def tiny_lm_config(n_codebooks: int = 4, cardinality: int = 64, **changes: object) -> LMConfig:
    """The smallest model with every part of a real one: text, two voices with acoustic delay 1, depth."""
    rows = (0, *[1] * (n_codebooks - 1))
    values: dict[str, object] = {
        "dim": 32, "num_heads": 2, "num_layers": 2, "n_q": 2 * n_codebooks, "dep_q": n_codebooks,
        "card": cardinality, "text_card": ByteTokenizer.vocab_size, "context": 50,
        "delays": (0, *rows, *rows), "hidden_scale": 4, "gating": "silu", "norm": "rms_norm_f32",
        "positional_embedding": "rope",
        "depformer_dim": 16, "depformer_num_heads": 2, "depformer_num_layers": 1, "depformer_pos_emb": "none",
        "depformer_dim_feedforward": 48, "depformer_multi_linear": True, "depformer_weights_per_step": True,
    }
    return LMConfig(**{**values, **changes})  # type: ignore[arg-type]


def fake_loaded_model(seed: int = 0, config: LMConfig | None = None) -> LoadedModel:
    """A tiny model with random weights from `seed`, a `FakeCodec` and a `ByteTokenizer`."""
    config = config or tiny_lm_config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = DuplexLM(config).eval()
    codec = FakeCodec(StreamLayout.from_config(config).n_system, config.card)
    return LoadedModel(lm=lm, config=config, codec=codec, tokenizer=ByteTokenizer(), meta={},
                       folder=Path("fake"))


def tone(seconds: float, hertz: float = 200.0, amplitude: float = 0.1) -> np.ndarray:
    """A sine as float32 [S] at 24 kHz. `FakeCodec` hears multiples of 100 Hz."""
    time = np.arange(seconds_to_samples(seconds)) / SAMPLE_RATE
    return (amplitude * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def scripted_speech(spans: Sequence[tuple[float, float]], seconds: float, hertz: float = 200.0,
                    amplitude: float = 0.1) -> np.ndarray:
    """Silence of `seconds` with speech-like sound in `spans` of (start, stop) seconds: float32 [S] at 24 kHz.

    A tone with one overtone whose loudness swings as syllables do, without ever falling silent.
    """
    pcm = np.zeros(seconds_to_samples(seconds), dtype=np.float32)
    for start, stop in spans:
        voice = tone(stop - start, hertz, amplitude) + tone(stop - start, 2 * hertz, amplitude / 2)
        time = np.arange(len(voice)) / SAMPLE_RATE
        voice *= (0.65 + 0.35 * np.sin(2 * np.pi * 3.7 * time + start)).astype(np.float32)
        first = seconds_to_samples(start)
        pcm[first : first + len(voice)] += voice[: len(pcm) - first]
    return pcm


def activity_of(spans: Sequence[tuple[int, int]], frames: int) -> np.ndarray:
    """Activity bool [T] that is true in `spans` of (first frame, frame after the last)."""
    active = np.zeros(frames, dtype=bool)
    for first, end in spans:
        active[first:end] = True
    return active


def silence(frames: int) -> np.ndarray:
    """`frames` frames of digital silence, float32 [T * 1920]."""
    return np.zeros(frames_to_samples(frames), dtype=np.float32)
