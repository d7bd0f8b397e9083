"""Tokenised dialogues on disk: shards written whole or not at all, mapped into memory when they are read.

A shard is one safetensors file whose bytes depend on its content alone:

    codes      int16 [K, sum of T]  row 0 the system's text, then the system's codebooks, then the user's
    starts     int64 [N + 1]        first frame of each dialogue, and the end
    user_text  int16 [sum of T]     the user's words as a text row, for training from the other side
    marks      int32 [M, 4]         events: dialogue, kind, first frame, frame after the last
    labels     uint8                JSON {"names": one a dialogue, "kinds": names of the kinds}

and metadata naming the codec and the tokenizer that made it (the last three tensors may be missing). ``index.json`` repeats
what opening needs, so that a folder of a hundred thousand shards opens without touching them; without it, or for shards that
it does not know, the headers are read.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from duplex.errors import CheckpointError, InputError
from duplex.jsonfile import parse_json, read_json
from duplex.safefile import read_header
from train.files import replace_file

__all__ = ["Encoded", "Mark", "ShardSet", "fingerprint", "write_index", "write_shard"]

PATTERN = "shard-*.safetensors"
INDEX = "index.json"
OPEN_SHARDS = 256
"""Shards that stay mapped at a time: each costs a file handle."""
_TYPES = {"I16": np.int16, "I32": np.int32, "I64": np.int64, "U8": np.uint8}
_READ = ("codes", "starts", "user_text", "marks", "labels")
_NAMES = {np.dtype(kind).name: name for name, kind in _TYPES.items()}


@dataclass(frozen=True)
class Mark:
    """An event of a dialogue in frames, ``end`` being the first frame after it."""

    kind: str
    first: int
    end: int


@dataclass(frozen=True)
class Encoded:
    """One dialogue as tokens."""

    name: str
    codes: np.ndarray
    """int [K, T]."""
    user_text: np.ndarray
    """int [T]."""
    marks: tuple[Mark, ...] = ()


def fingerprint(path: str | Path) -> str:
    """First 16 hex digits of a file's SHA-256: which codec or tokenizer a corpus was made with."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def write_shard(path: Path, dialogues: Sequence[np.ndarray | Encoded], metadata: Mapping[str, str]) -> None:
    """Write dialogues (plain ones are int [K, T]) as one shard, atomically; equal content gives equal bytes."""
    codes = [d.codes if isinstance(d, Encoded) else d for d in dialogues]
    tensors = {"codes": _narrow(np.concatenate(codes, 1)),
               "starts": np.cumsum([0, *(c.shape[1] for c in codes)]).astype(np.int64)}
    if dialogues and all(isinstance(d, Encoded) for d in dialogues):
        kinds = sorted({mark.kind for d in dialogues for mark in d.marks})
        marks = [(n, kinds.index(m.kind), m.first, m.end) for n, d in enumerate(dialogues) for m in d.marks]
        labels = json.dumps({"names": [d.name for d in dialogues], "kinds": kinds})
        tensors |= {"user_text": _narrow(np.concatenate([d.user_text for d in dialogues])),
                    "marks": np.array(marks, np.int32).reshape(-1, 4), "labels": np.frombuffer(labels.encode(), np.uint8)}
    data = serialise(tensors, metadata)

    def write(part: Path) -> None:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a disk that is full tells so now at the latest

    replace_file(path, write)


def _narrow(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int32 if values.size and values.max() > 32_767 else np.int16)


def serialise(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file. The package's own writer orders the metadata differently in every process."""
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict = {"__metadata__": dict(sorted(metadata.items()))}
    at = 0
    for name in order:
        tensor = tensors[name]
        header[name] = {"dtype": _NAMES[tensor.dtype.name], "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(np.ascontiguousarray(tensors[name]).tobytes() for name in order)])


@dataclass(frozen=True)
class _Entry:
    """What is known of a shard without its codes."""

    name: str
    size: int
    starts: tuple[int, ...]
    metadata: dict[str, str]
    tensors: dict[str, tuple[str, tuple[int, ...], int]]
    """Type, shape and place in the file of each tensor."""


def _examine(path: Path) -> _Entry:
    try:
        header = read_header(path)
        tensors = {name: (info.dtype, tuple(info.shape), info.start) for name, info in header.tensors.items()}
        if tensors["starts"][0] != "I64":
            raise CheckpointError("its starts are of another type")
        starts = tuple(_read(path, tensors["starts"]).tolist())
        entry = _Entry(path.name, path.stat().st_size, starts, dict(header.metadata), tensors)
        _check(entry)
    except (CheckpointError, OSError, KeyError) as error:
        raise _unreadable(path, str(error).removeprefix(f"{path}: ")) from None
    return entry


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: not a readable shard ({reason}); delete it and prepare again")


def _check(entry: _Entry) -> None:
    """Raises CheckpointError or KeyError unless types, shapes and places of an entry fit each other and the file's size."""
    tensors, starts = entry.tensors, entry.starts
    rising = len(starts) > 1 and starts[0] == 0 and all(a <= b for a, b in itertools.pairwise(starts))
    dtype, shape, _ = tensors["codes"]
    if not (rising and dtype in ("I16", "I32") and len(shape) == 2 and shape[0] and starts[-1] == shape[1] > 0):
        raise CheckpointError("its codes and starts do not fit")
    for name, (dtype, shape, at) in tensors.items():
        wanted = {"labels": (("U8",), None), "marks": (("I32",), (shape[0] if shape else 0, 4)),
                  "user_text": (("I16", "I32"), (starts[-1],))}.get(name)
        if wanted is not None and not (dtype in wanted[0] and shape == (wanted[1] or (math.prod(shape),))):
            raise CheckpointError(f"its {name} are of another type or shape")
        if name in _READ and not 0 <= at <= at + math.prod(shape) * np.dtype(_TYPES[dtype]).itemsize <= entry.size:
            raise CheckpointError(f"its {name} lie outside of the file")


def _read(path: Path, tensor: tuple[str, tuple[int, ...], int]) -> np.ndarray:
    dtype, shape, start = tensor
    return np.fromfile(path, _TYPES[dtype], int(np.prod(shape)), offset=start).reshape(shape)


def write_index(folder: Path) -> list[_Entry]:
    """Write ``index.json`` for the shards that are there, atomically."""
    entries = [_examine(path) for path in sorted(folder.glob(PATTERN))]
    shards = [{"name": e.name, "size": e.size, "starts": e.starts, "metadata": e.metadata, "tensors": e.tensors} for e in entries]
    text = json.dumps({"version": 1, "shards": shards}, separators=(",", ":"), sort_keys=True)
    replace_file(folder / INDEX, lambda part: part.write_text(text + "\n"), shared=True)
    return entries


def _read_index(folder: Path) -> dict[str, _Entry]:
    try:
        found = read_json(folder / INDEX)["shards"]
        entries = [_Entry(e["name"], e["size"], _counts(e["starts"]), dict(e["metadata"]),
                          {n: (d, _counts(s), *_counts([at])) for n, (d, s, at) in e["tensors"].items()}) for e in found]
        for entry in entries:
            _check(entry)
            if not all(isinstance(value, str) for value in entry.metadata.values()):
                raise ValueError("metadata is text to text")
        return {entry.name: entry for entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError):  # InputError and CheckpointError are ValueErrors
        return {}  # the shards say it as well


def _counts(values: list) -> tuple[int, ...]:
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError("not a list of counts")
    return tuple(values)


def _names(path: Path, raw: bytes, dialogues: int) -> tuple[list[str], list[str]]:
    """Names of the dialogues and of the kinds of events; InputError for other content."""
    labels = parse_json(raw, f"{path}: its labels", mend="delete it and prepare again")
    names, kinds = (labels.get("names"), labels.get("kinds")) if isinstance(labels, dict) else (None, None)
    for texts in (names, kinds):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise _unreadable(path, "its labels are no names")
    if len(names) not in (0, dialogues):
        raise _unreadable(path, f"{len(names)} names for {dialogues} dialogues")
    return names, kinds


def _check_marks(path: Path, marks: np.ndarray, kinds: int, starts: tuple[int, ...]) -> None:
    dialogue, kind, first, end = marks.T.astype(np.int64)
    known = (dialogue >= 0) & (dialogue < len(starts) - 1) & (kind >= 0) & (kind < kinds)
    frames = np.diff(starts)
    if not (known.all() and ((0 <= first) & (first <= end) & (end <= frames[dialogue])).all()):
        raise _unreadable(path, "an event lies outside of its dialogue")


class ShardSet:
    """All dialogues of a folder of shards (or of one shard), in order of shard name.

    Raises InputError when there are none, when one cannot be read, or when they were made with different codecs or
    tokenizers.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        paths = [self.folder] if self.folder.is_file() else sorted(self.folder.glob(PATTERN))
        self.folder = self.folder.parent if self.folder.is_file() else self.folder
        if not paths:
            raise InputError(f"{folder}: no shards; make them with python -m train.prepare --out {folder}")
        known = _read_index(self.folder)
        self._entries: list[_Entry] = []
        for path in paths:
            entry = known.get(path.name)
            # An index that is older than its shards knows other sizes.
            entry = entry if entry and entry.size == path.stat().st_size else _examine(path)
            if self._entries and entry.metadata != self._entries[0].metadata:
                raise InputError(f"{path}: made with another codec or tokenizer than {paths[0].name}; "
                                 "prepare again into an empty folder")
            self._entries.append(entry)
        self.metadata: dict[str, str] = self._entries[0].metadata
        counts = [len(entry.starts) - 1 for entry in self._entries]
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._open: OrderedDict[int, np.ndarray] = OrderedDict()
        self._labels: OrderedDict[int, dict] = OrderedDict()

    def __len__(self) -> int:
        return int(self._first[-1])

    def frames(self) -> int:
        """Frames of all dialogues together."""
        return sum(entry.starts[-1] for entry in self._entries)

    def dialogue(self, index: int) -> torch.Tensor:
        """int64 [K, T]."""
        shard, inside = self._place(index)
        a, b = self._entries[shard].starts[inside : inside + 2]
        return torch.from_numpy(self._codes(shard)[:, a:b].astype(np.int64))

    def crop(self, index: int, frames: int, rng: np.random.Generator) -> torch.Tensor:
        """int64 [K, frames] from a random place; a shorter dialogue is filled up with -1 (no token, no loss)."""
        shard, inside = self._place(index)
        a, b = self._entries[shard].starts[inside : inside + 2]
        spare = b - a - frames
        if spare >= 0:
            at = a + int(rng.integers(0, spare + 1))
            return torch.from_numpy(self._codes(shard)[:, at : at + frames].astype(np.int64))
        return torch.nn.functional.pad(self.dialogue(index), (0, -spare), value=-1)

    def name(self, index: int) -> str:
        """Name of the recording that a dialogue was made of; its number where the shard has no names."""
        shard, inside = self._place(index)
        names = self._label(shard)["names"]
        return names[inside] if names else f"{self._entries[shard].name.split('.')[0]}-{inside}"

    def marks(self, index: int) -> list[Mark]:
        """Events of a dialogue in order of their first frame."""
        shard, inside = self._place(index)
        label = self._label(shard)
        rows = label["marks"][label["marks"][:, 0] == inside] if len(label["marks"]) else ()
        return [Mark(label["kinds"][kind], int(first), int(end)) for _, kind, first, end in rows]

    def user_text(self, index: int) -> torch.Tensor | None:
        """int64 [T]: the user's words as a text row, None where the shard has none."""
        shard, inside = self._place(index)
        row = self._label(shard)["user_text"]
        a, b = self._entries[shard].starts[inside : inside + 2]
        return None if row is None else torch.from_numpy(row[a:b].astype(np.int64))

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise InputError(f"{self.folder}: there is no dialogue {index}; it has {len(self)}")
        shard = int(np.searchsorted(self._first, index, "right")) - 1
        return shard, index - int(self._first[shard])

    def _codes(self, shard: int) -> np.ndarray:
        if shard not in self._open:
            entry = self._entries[shard]
            dtype, shape, start = entry.tensors["codes"]
            self._open[shard] = np.memmap(self.folder / entry.name, _TYPES[dtype], "r", start, shape)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _label(self, shard: int) -> dict:
        if shard not in self._labels:
            entry = self._entries[shard]
            path, there = self.folder / entry.name, entry.tensors
            marks = _read(path, there["marks"]) if "marks" in there else np.zeros((0, 4), np.int32)
            names, kinds = [], []
            if "labels" in there:
                names, kinds = _names(path, _read(path, there["labels"]).tobytes(), len(entry.starts) - 1)
            _check_marks(path, marks, len(kinds), entry.starts)
            self._labels[shard] = {"names": names, "kinds": kinds, "marks": marks,
                                   "user_text": _read(path, there["user_text"]) if "user_text" in there else None}
            if len(self._labels) > OPEN_SHARDS:
                self._labels.popitem(last=False)
        return self._labels[shard]
