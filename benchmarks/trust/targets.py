"""What reads bytes of strangers, each as one call on any bytes: it ends in a value or in an error of its own kind.

Property tests (`benchmarks.trust.examples`) and fuzzing (`benchmarks.trust.fuzz`) both call these. A call builds all that it
needs, so that the same bytes do the same every time, and checks what the reader promises of its values.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from benchmarks.trust import seeds
from duplex.checkpoint import LoadedModel, open_folder
from duplex.conditions import condition_tables
from duplex.config import LMConfig
from duplex.errors import DuplexError
from duplex.overlay import load_toml, parse_override
from duplex.safefile import iterate_tensors, read_header
from duplex.streams import StreamLayout
from duplex.text import read_words
from infer.server import ogg
from infer.server.limits import ClientError, Limits
from infer.server.live_wire import Complaint, LiveWire, complaint_event, parse_event, parse_start
from infer.server.moshi_wire import MoshiWire, parse_query
from infer.server.moshi_wire import Options as WireOptions
from train.corpus.bank import Bank
from train.encode import Report
from train.files import codec_config
from train.own.labels import read_events, read_segments, read_spoken
from train.own.layout import find_items
from train.recipe import FitRecipe
from train.shards import INDEX, ShardSet

CALL_SECONDS = 0.05
"""Longest time of a call."""
LARGEST_FILE = 64 * 1024
"""Bytes of the largest file that the calls are given (a manifest: 8 KiB, since every line asks the disk for its files); the
wires get messages up to the server's own limit."""
ERRORS = (DuplexError, ClientError, Complaint)


class Broken(AssertionError):
    """A reader did what it promises not to do."""


@dataclass(frozen=True)
class Target:
    """One reader."""

    name: str
    part: str
    """The kind of input that the promise names."""
    call: Callable[[bytes], Any]
    seeds: Callable[[], list[bytes]]
    words: tuple[str, ...] = ()
    """What is worth inserting."""
    largest: int = LARGEST_FILE


def need(condition: bool, what: str) -> None:
    """Raises Broken unless the condition holds."""
    if not condition:
        raise Broken(what)


def typed(call: Callable[..., Any], *values: Any) -> Any:
    """The value of a call; None where it ended in an error of the product's own, which must be one line of words."""
    try:
        return call(*values)
    except ERRORS as error:
        text = str(error)
        one_line = bool(text) and len(text) < 2_000 and len(text.splitlines()) == 1
        need(one_line, f"{type(error).__name__} is not one line: {text!r}")
        return None


@dataclass
class Timed:
    """Calls a target and keeps the longest time, of the processor: the readers do not wait, and others use the machine, too.

    A call over the limit is repeated, and the shortest time counts, since collecting garbage falls on any.
    """

    target: Target
    slowest: float = 0.0
    calls: int = 0
    slow: list[bytes] = field(default_factory=list)
    """The inputs over the limit."""

    def __call__(self, data: bytes) -> None:
        seconds = self._once(data)
        for _ in range(5):
            if seconds <= CALL_SECONDS:
                break
            seconds = min(seconds, self._once(data))
        self.calls += 1
        self.slowest = max(self.slowest, seconds)
        if seconds > CALL_SECONDS:
            self.slow.append(data)
            raise Broken(f"{self.target.name}: a call took {1000 * seconds:.0f} ms")

    def _once(self, data: bytes) -> float:
        begun = time.thread_time()
        self.target.call(data)
        return time.thread_time() - begun


def messages(data: bytes) -> Iterator[bytes]:
    """Bytes cut into messages: two bytes of length in front of each."""
    while data:
        length = int.from_bytes(data[:2], "little")
        yield data[2 : 2 + length]
        data = data[2 + length :]


def _sound(pcm: np.ndarray | None) -> None:
    if pcm is not None:
        need(pcm.dtype == np.float32 and pcm.ndim == 1, "sound is float32 [S]")
        need(bool(np.isfinite(pcm).all()) and float(np.abs(pcm).max(initial=0)) <= 1, "sound lies within -1 and 1")


# The wire.

def moshi(data: bytes) -> None:
    """Messages of Moshi's protocol on one connection; the first byte chooses Ogg/Opus or plain samples."""
    wire = MoshiWire(WireOptions(pcm=bool(data[:1] and data[0] & 1)))
    for message in messages(data[1:]):
        pcm = typed(wire.hear, message)
        _sound(pcm)
        if pcm is None:
            return


def query(data: bytes) -> None:
    """The query string in front of them."""
    options = typed(parse_query, dict(parse_qsl(data.decode("utf-8", "replace"), keep_blank_values=True)))
    if options is not None:
        wish = options.wish
        need(wish.seed is None or 0 <= wish.seed < 2**31, "a seed lies within 31 bits")
        for temperature in (wish.text_temperature, wish.audio_temperature):
            need(temperature is None or 0 <= temperature <= 2, "a temperature lies within 0 and 2")


def pages(data: bytes) -> None:
    """An Ogg stream as it is; or, where the first byte is odd, packets laid into pages whose checksums are right."""
    if not data:
        return
    stream = paged(data[1:]) if data[0] & 1 else data[1:]
    cut = max(1, len(stream) if data[0] & 2 else len(stream) // (1 + data[0] // 16))
    reader = ogg.OpusReader()
    for at in range(0, len(stream), cut):
        pcm = typed(reader.push, stream[at : at + cut])
        _sound(pcm)
        if pcm is None:
            return


def paged(data: bytes) -> bytes:
    """An Ogg stream. Each piece is flags, lacing values and a body; the page around it has a right checksum and number."""
    parts = []
    for number, piece in enumerate(messages(data)):
        flags, segments = (piece[0], piece[1]) if len(piece) > 1 else (0, 0)
        lacing = piece[2 : 2 + segments]
        body = (piece[2 + segments :] + bytes(255 * 255))[: sum(lacing)]
        page = bytearray(b"OggS\0" + bytes([flags]) + bytes(8) + b"same" + number.to_bytes(4, "little") + bytes(4)
                         + bytes([len(lacing)]) + lacing + body)
        page[22:26] = ogg.page_checksum(bytes(page)).to_bytes(4, "little")
        parts.append(bytes(page))
    return b"".join(parts)


# JSON events.

def live(data: bytes) -> None:
    """Events of the Live API on one connection, one a line."""
    wire: LiveWire | None = None
    for line in data.decode("utf-8", "replace").split("\n"):
        event = typed(parse_event, line)
        if event is None:
            return
        try:
            if wire is None:
                start = parse_start(event)
                (start.wish.persona or "").encode()  # the tokenizer takes it as UTF-8
                wire = LiveWire(start, "live_0", 1)
                _event(wire.started(event))
            elif event["type"] == "session.input_audio.append":
                _sound(wire.hear(event))
            else:
                _event(wire.answer(event))
        except Complaint as complaint:
            need(len(str(complaint).splitlines()) == 1, "a complaint is one line")
            _event(complaint_event(complaint, event))
            str(complaint).encode()  # the reason of a close is UTF-8
            if wire is None:
                return


def _event(text: str) -> None:
    def refuse(name: str) -> None:
        raise Broken(f"an answer holds {name}, which is no JSON")

    need(isinstance(json.loads(text, parse_constant=refuse)["type"], str), "an answer is an event")


# Files.

def configuration(data: bytes) -> None:
    """config.json of a model folder."""
    path = seeds.put("model/config.json", data)
    folder = typed(open_folder, path.parent)
    if folder is not None:
        config = typed(folder.network)
        if config is not None:
            typed(StreamLayout.from_config, config)
            need(LMConfig.from_dict(config.to_dict()) == config, "a configuration survives being written")
        typed(folder.mimi_config)
        typed(condition_tables, folder.raw, str(path))
        for key in ("moshi_name", "mimi_name", "tokenizer_name", "lora_name", "mimi_config_name"):
            named = typed(folder.file, key, ()) if not str(folder.raw.get(key)).startswith("hf:") else None
            need(named is None or path.parent.resolve() in named.resolve().parents, f"{key} left the folder: {named}")
        typed(lambda: LoadedModel(None, config, None, None, folder.raw, path.parent).sampling)  # type: ignore[arg-type]
    typed(LMConfig.from_json, path)


def codec_sizes(data: bytes) -> None:
    """mimi.json of a trained codec."""
    typed(codec_config, seeds.put("codec/mimi.json", data).parent)


def settings(data: bytes) -> None:
    """A recipe, and a setting on a command line."""
    typed(load_toml, FitRecipe, seeds.put("recipe.toml", data))
    typed(parse_override, data[:200].decode("utf-8", "replace"))


def manifest(data: bytes) -> None:
    """A manifest of recordings, plain or packed."""
    path = seeds.put("set/all.jsonl", data)
    items = typed(find_items, path)
    for item in items or ():
        need(item.problem is None or len(item.problem.splitlines()) == 1, "a problem is one line")
    typed(find_items, seeds.put("packed/all.jsonl.gz", data))


def labels(data: bytes) -> None:
    """Word times, diarisations and events beside a recording, and the reports of finished work."""
    path = seeds.put("labels.json", data)
    typed(read_spoken, path)
    typed(read_segments, path)
    typed(read_words, path)
    typed(read_segments, seeds.put("labels.rttm", data))
    typed(read_events, seeds.put("labels.events.jsonl", data))
    typed(Report.from_json, data.decode("utf-8", "replace"))


def clips(data: bytes) -> None:
    """The index of a bank of clips."""
    path = seeds.put("bank/espeak.jsonl", data)
    path.with_suffix(".pcm").write_bytes(bytes(2_000))
    bank = typed(Bank, path.parent)
    for clip in (bank.clips if bank is not None else ())[:50]:
        typed(bank.samples, clip)


def shard(data: bytes) -> None:
    """A folder with one shard."""
    path = seeds.put("shards/shard-00000.safetensors", data)
    path.with_name(INDEX).unlink(missing_ok=True)
    _read_all(path.parent)


def shard_index(data: bytes) -> None:
    """The index of a folder of shards, around a shard that is whole."""
    path = seeds.put("indexed/shard-00000.safetensors", seeds.shard())
    path.with_name(INDEX).write_bytes(data)
    _read_all(path.parent)


def _read_all(folder: Path) -> None:
    shards = typed(ShardSet, folder)
    if shards is None:
        return
    rng = np.random.default_rng(0)
    for index in range(min(len(shards), 20)):
        codes = typed(shards.dialogue, index)
        text = typed(shards.user_text, index)
        if codes is not None and text is not None:
            need(text.shape == codes.shape[1:], "a text row is as long as its codes")
        typed(shards.crop, index, 5, rng)
        typed(shards.name, index)
        for mark in typed(shards.marks, index) or ():
            need(codes is None or 0 <= mark.first <= mark.end <= codes.shape[1], "an event lies within its dialogue")


def weights(data: bytes) -> None:
    """A safetensors file."""
    header = typed(read_header, seeds.put("weights.safetensors", data))
    if header is not None:
        held = sum(tensor.nbytes for _, tensor in iterate_tensors(header))
        need(held <= len(data), "tensors are no larger than their file")


def _made(name: str, part: str, call: Callable[[bytes], Any], inputs: Callable[[], list[bytes]], *words: str,
          largest: int = LARGEST_FILE) -> Target:
    return Target(name, part, call, inputs, words, largest)


_OGG, _WIRE = ("OggS", "OpusHead", "OpusTags"), Limits.message_bytes
TARGETS: dict[str, Target] = {target.name: target for target in (
    _made("moshi", "wire", moshi, seeds.moshi, *_OGG, largest=_WIRE),
    _made("query", "wire", query, lambda: [b"audio=pcm&events=1&seed=5&text_temperature=0.7&policy=learned", b"seed=1&persona=x"],
          "audio_temperature=", "text_seed=", "nan", "policy=", "%00", "token="),
    _made("pages", "Ogg", pages, seeds.pages, *_OGG, largest=_WIRE),
    _made("live", "JSON events", live, seeds.events, *seeds.KEYS, *seeds.EVENT_WORDS, largest=_WIRE),
    _made("configuration", "config", configuration, seeds.configurations, *seeds.KEYS, "hf://", '"preset"', '"seanet"', '"lut"'),
    _made("codec_sizes", "config", codec_sizes, lambda: seeds.configurations()[:1], *seeds.KEYS),
    _made("settings", "config", settings, seeds.recipes, "[[", "]]", "= ", "'''", '"""', "1979-05-27", "inf", "0x", "[" * 60),
    _made("manifest", "manifest", manifest, seeds.manifests, *seeds.KEYS, '"path"', '"duration"', "..", largest=8 * 1024),
    _made("labels", "manifest", labels, seeds.labels, *seeds.KEYS, '"alignments"', "SPEAKER", '"kind"', '"start"', "inf"),
    _made("clips", "manifest", clips, lambda: [seeds.CLIP, seeds.CLIP * 2], *seeds.KEYS, '"offset"', '"samples"', '"words"'),
    _made("shard", "shards", shard, lambda: [seeds.shard()], *seeds.KEYS, "I16", "I64", "U8", "data_offsets", '"starts"'),
    _made("shard_index", "shards", shard_index, lambda: [seeds.shard_index()], *seeds.KEYS, '"starts"', '"tensors"', '"size"'),
    _made("weights", "shards", weights, lambda: [seeds.shard()], *seeds.KEYS, "F32", "BF16", "BOOL", "F8_E4M3", "__metadata__"),
)}
