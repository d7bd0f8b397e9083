"""Good inputs of every reader, from which bad ones are made, and the folder in which files for them lie."""

from __future__ import annotations

import gzip
import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from duplex.codec import MimiConfig
from duplex.config import PRESETS
from infer.server.ogg import OpusWriter
from train.shards import INDEX, Encoded, Mark, write_index, write_shard


@cache
def folder() -> Path:
    """A folder in memory where that is to be had: most of a call on a file would be the disk otherwise."""
    memory = Path("/dev/shm")
    made = tempfile.TemporaryDirectory(prefix="duplex-", dir=memory if memory.is_dir() else None)
    _KEEP.append(made)
    return Path(made.name)


_KEEP: list[tempfile.TemporaryDirectory] = []


def put(name: str, data: bytes) -> Path:
    """Writes a file into the folder."""
    path = folder() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def joined(*messages: bytes) -> bytes:
    """Messages in a row, two bytes of length in front of each."""
    return b"".join(len(m).to_bytes(2, "little") + m for m in messages)


def _piece(flags: int, *packets: bytes) -> bytes:
    lacing = b"".join(bytes([255] * (len(p) // 255) + [len(p) % 255]) for p in packets)
    return bytes([flags, len(lacing)]) + lacing + b"".join(packets)


@cache
def opus() -> bytes:
    """An Ogg/Opus stream of 400 ms."""
    writer = OpusWriter()
    wave = np.sin(np.arange(1920) * 0.05).astype(np.float32) * 0.3
    return b"".join(writer.push(wave) for _ in range(5))


def moshi() -> list[bytes]:
    """Connections in Moshi's protocol: Ogg/Opus whole and in halves, plain samples."""
    sound = opus()
    halves = sound[: len(sound) // 2], sound[len(sound) // 2 :]
    return [b"\0" + joined(b"\1" + sound, b"\3\0"), b"\1" + joined(b"\1abcd", b"\2hi", b"\6"),
            b"\0" + joined(*(b"\1" + half for half in halves))]


def pages() -> list[bytes]:
    """Streams as they are, and packets to be laid into pages."""
    head = b"OpusHead\1\1" + (312).to_bytes(2, "little") + (48_000).to_bytes(4, "little") + bytes(3)
    tags = b"OpusTags" + (4).to_bytes(4, "little") + b"seed" + bytes(4)
    made = joined(_piece(2, head), _piece(0, tags), _piece(0, b"\xf8\xff\xfe", b"\x08", bytes([3, 3]) + bytes(60)),
                   _piece(0, b"\x08" * 300), _piece(4, b"\x80"))
    return [b"\0" + opus(), b"\x20" + opus(), b"\x03" + made, b"\x21" + made]


@cache
def shard() -> bytes:
    """A shard of two dialogues."""
    rng = np.random.default_rng(0)
    made = [Encoded(f"d{n}", rng.integers(0, 60, (5, 9)), rng.integers(0, 60, 9), (Mark("user_turn", 1, 4),)) for n in range(2)]
    path = folder() / "seed.safetensors"
    write_shard(path, made, {"codec": "a", "tokenizer": "b"})
    return path.read_bytes()


def shard_index() -> bytes:
    """The index of a folder with that shard."""
    path = put("seeded/shard-00000.safetensors", shard())
    write_index(path.parent)
    return (path.parent / INDEX).read_bytes()


def configurations() -> list[bytes]:
    """Files config.json."""
    toy = PRESETS["toy"].to_dict()
    folder = {"moshi_name": "model.safetensors", "lm_gen_config": {"temp": 0.5, "top_k": 10}, "model_type": "moshi",
              "mimi_config": MimiConfig().to_dict()}
    table = {"conditioners": {"x": {"type": "lut", "lut": {"n_bins": 2, "dim": 4, "possible_values": ["a"]}}},
             "fuser": {"sum": ["x"]}}
    nested = {"mimi_config": MimiConfig().upstream()}
    return [json.dumps(one).encode() for one in (
        toy | folder, toy | table | {"lora_name": "../x"}, {"preset": "moshi-7b"}, {}, toy | nested)]


def events() -> list[bytes]:
    """Sessions of the Live API, one event a line."""
    start = {"type": "session.start", "event_id": "e1", "session": {
        "model": "m", "instructions": "be kind", "audio": {"format": {"type": "audio/pcm", "rate": 16_000}}}}
    phone = {"type": "session.start", "session": {"model": "m", "audio": {"format": {"type": "audio/pcmu", "rate": 8_000}}}}
    more = [{"type": "session.input_audio.append", "audio": "AAAAAAAA"}, {"type": "session.input_audio.mute"},
            {"type": "session.update", "session": {}}, {"type": "response.create"}, {"type": "session.close"}]
    return ["\n".join(json.dumps(event) for event in (first, *more)).encode() for first in (start, phone)]


def labels() -> list[bytes]:
    """Labels in every layout."""
    return [b'{"alignments": [["hello", [0.1, 0.5], "SPEAKER_MAIN"], ["you", [0.6, 0.9], "SPEAKER_USER"]]}',
            b'[{"speaker": "A", "word": "hi", "start": 0.1, "end": 0.4}]', b'{"words": [["hi", 0.1, 0.4]]}',
            b"SPEAKER f 1 0.00 1.50 <NA> <NA> A <NA> <NA>\n", b'{"kind": "user_turn", "start": 0.5, "end": 1}\n',
            b'{"number": 1, "words": [1, 2], "rejected": []}']


def recipes() -> list[bytes]:
    """The recipes of this repository."""
    folder = Path(__file__).parents[2] / "train" / "recipes"
    return [path.read_bytes() for path in sorted(folder.glob("*.toml"))]


def manifests() -> list[bytes]:
    """Manifests, plain and packed."""
    lines = b'{"path": "a/b.wav", "duration": 3.5}\n{"path": "c.wav"}\n'
    return [lines, gzip.compress(lines, mtime=0)]


CLIP = b'{"text": "hi", "voice": "espeak:en", "role": "user", "offset": 0, "samples": 800, "words": [["hi", 0.0, 0.03]]}\n'
KEYS = ("{", "}", "[", "]", '":', "null", "1e999", "-1", "NaN", "\\ud800", "\\u0000", "../", "9" * 400)
EVENT_WORDS = ("session.start", "session.update", "session.close", "session.input_audio.append", "session.input_audio.mute",
                "audio/pcma", "instructions", "client", "format", "rate", '"audio"', '"model"')
