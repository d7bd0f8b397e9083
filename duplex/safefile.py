"""Safetensors files read with nothing taken on trust.

The header is parsed and checked by hand *before* any tensor memory is taken, so a truncated download, a file
of another format or a hostile one ends in a one-line `CheckpointError` rather than in a crash or a huge
allocation. Tensors are then read one by one, so that a load needs little more memory than the model itself.

File layout: 8 bytes little-endian header length N, N bytes of JSON
`{name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}`, then the tensor bytes,
which the offsets must cover without hole or overlap.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from duplex.errors import CheckpointError
from duplex.wording import nearest, show

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_PIECE_BYTES = 1 << 18  # a multiple of every type's size; looking through it takes three times as much

_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")  # what weights may be stored as

_FOREIGN = (
    (b"version https://git-lfs", "is a git-lfs pointer, not the weights: run `git lfs pull` in its folder"),
    (b"GGUF", "is a GGUF file: convert it to safetensors with Kyutai's key names"),
    (b"PK\x03\x04", "is a PyTorch pickle archive, which is never opened: convert it to safetensors"),
    (b"\x80", "is a Python pickle, which is never opened: convert it to safetensors"),
)


@dataclass(frozen=True)
class TensorInfo:
    """One entry of a header: `dtype` in the format's own words, `start`/`stop` file offsets in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """A validated header: every tensor lies inside the file, with a size that fits its dtype and shape."""

    path: Path
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: str | Path) -> Header:
    """Parses and validates the header of the safetensors file `path`; takes no tensor memory.

    Raises CheckpointError when the file is missing, of another format, truncated, or when its header does not
    describe exactly the bytes that follow it.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            file_bytes = file.seek(0, 2)
            file.seek(0)
            start = file.read(64)
            for magic, problem in _FOREIGN:  # a safetensors length may begin with these bytes, too
                if start[8:9] != b"{" and start.startswith(magic):
                    raise CheckpointError(f"{path}: {problem}")
            if file_bytes < 10:
                raise CheckpointError(f"{path}: only {file_bytes} bytes, no safetensors file; copy it again")
            header_bytes = int.from_bytes(start[:8], "little")
            if header_bytes > MAX_HEADER_BYTES:
                raise CheckpointError(
                    f"{path}: not a safetensors file (it announces a header of {header_bytes} bytes); "
                    "check the file's origin")
            if 8 + header_bytes > file_bytes:
                raise CheckpointError(
                    f"{path}: truncated inside its header ({file_bytes} of at least {8 + header_bytes} "
                    "bytes); copy or download it again")
            file.seek(8)
            raw = file.read(header_bytes)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    entries = _parse_json(path, raw)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: damaged header (__metadata__ is not text to text); copy it again")
    tensors = {name: _tensor_info(path, name, entry, 8 + header_bytes) for name, entry in entries.items()}
    _check_coverage(path, tensors, 8 + header_bytes, file_bytes)
    return Header(path, tensors, metadata)


def _parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) != len(pairs):
            raise ValueError("a name occurs twice")
        return mapping

    try:
        # RecursionError: a header of nothing but opening brackets is a cheap way to exhaust the stack.
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: header is not valid JSON ({reason}); copy the file again") from None
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: header is not a JSON object; copy the file again")
    return entries


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _tensor_info(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    def damaged(problem: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {show(name)} {problem}; copy the file again")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise damaged("must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise damaged(f"has the unknown dtype {show(dtype)}")
    if not isinstance(shape, list) or len(shape) > 16 or not all(_is_count(size) for size in shape):
        raise damaged(f"has a bad shape {show(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(offset) for offset in offsets):
        raise damaged(f"has bad offsets {show(offsets)}")
    size = math.prod(shape) * _DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != size:
        raise damaged(f"spans {show(offsets)}, but {dtype} of shape {show(shape)} takes {show(size)} bytes")
    return TensorInfo(name, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _check_coverage(path: Path, tensors: dict[str, TensorInfo], data_start: int, file_bytes: int) -> None:
    position = data_start
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.stop)):
        if info.start != position:
            problem = "overlaps another tensor" if info.start < position else "leaves a gap before it"
            raise CheckpointError(f"{path}: tensor {show(info.name)} {problem}; copy the file again")
        position = info.stop
    if position > file_bytes:
        raise CheckpointError(
            f"{path}: truncated ({file_bytes} of {position} bytes); copy or download it again")
    if position < file_bytes:
        raise CheckpointError(
            f"{path}: {file_bytes - position} bytes after the last tensor; copy or download it again")


def check_against(
    header: Header, expected: Mapping[str, tuple[int, ...]], what: str = "the configuration"
) -> None:
    """Compares names and shapes with `expected` (name -> shape); the error names the first of each.

    `what` says in the message where the expectation comes from. Weights stored as integers or as 8-bit floats
    are quantised and refused here as well.
    """
    missing = [name for name in expected if name not in header.tensors]
    extra = [name for name in header.tensors if name not in expected]
    wrong = [name for name in expected
             if name in header.tensors and header.tensors[name].shape != tuple(expected[name])]
    problems = []
    if missing:
        problems.append(f"lacks {_some(missing)}")
    if extra:
        hint = nearest(extra[0], missing or list(expected))
        problems.append(f"has unexpected {_some(extra)}{hint}")
    if wrong:
        name = wrong[0]
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        problems.append(f"{show(name)} has shape {list(header.tensors[name].shape)} instead of "
                        f"{list(expected[name])}{more}")
    if problems:
        raise CheckpointError(f"{header.path}: does not fit {what}: {'; '.join(problems)}")
    for info in header.tensors.values():
        if info.dtype not in FLOAT_DTYPES:
            raise CheckpointError(f"{header.path}: tensor {show(info.name)} is stored as {info.dtype} "
                                  "(quantised?); use weights in F32, F16 or BF16")


def _some(names: list[str], limit: int = 3) -> str:
    listed = ", ".join(show(name) for name in names[:limit])
    return f"{listed} and {len(names) - limit} more" if len(names) > limit else listed


class TensorReader:
    """Reads the tensors of one validated file, one at a time: `with TensorReader(header) as reader: ...`."""

    def __init__(self, header: Header):
        self.header = header
        self._file: BinaryIO | None = None

    def __enter__(self) -> "TensorReader":
        try:
            self._file = self.header.path.open("rb")
        except OSError as error:
            raise CheckpointError(f"{self.header.path}: cannot be read ({error.strerror})") from None
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, name: str) -> torch.Tensor:
        """The tensor `name` on the CPU in its stored dtype; CheckpointError if the file shrank meanwhile."""
        info = self.header.tensors[name]
        buffer = torch.empty(info.stop - info.start, dtype=torch.uint8)
        if buffer.numel():
            assert self._file is not None, "TensorReader is used as a context manager"
            try:
                self._file.seek(info.start)
                got = self._file.readinto(memoryview(buffer.numpy()))  # type: ignore[attr-defined]
            except OSError as error:
                raise CheckpointError(f"{self.header.path}: cannot be read ({error.strerror})") from None
            if got != buffer.numel():
                raise CheckpointError(f"{self.header.path}: ended inside {show(name)}; copy it again")
        if info.dtype == "BOOL":
            return (buffer != 0).reshape(info.shape)
        return buffer.view(_DTYPES[info.dtype]).reshape(info.shape)


def iterate_tensors(header: Header) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a validated file in file order, read one by one onto the CPU in their stored dtypes."""
    with TensorReader(header) as reader:
        for info in sorted(header.tensors.values(), key=lambda info: info.start):
            yield info.name, reader.read(info.name)


def check_finite(header: Header, names: Iterable[str]) -> None:
    """Raises CheckpointError when one of the named tensors holds NaN or an infinity; takes less than a mebibyte."""
    buffer = torch.empty(_PIECE_BYTES, dtype=torch.uint8)
    view = memoryview(buffer.numpy())
    try:
        with header.path.open("rb") as file:
            for info in sorted((header.tensors[name] for name in names), key=lambda info: info.start):
                file.seek(info.start)
                for at in range(info.start, info.stop, _PIECE_BYTES):
                    size = min(_PIECE_BYTES, info.stop - at)
                    if file.readinto(view[:size]) != size:
                        raise CheckpointError(f"{header.path}: ended inside {show(info.name)}; copy it again")
                    require_finite(buffer[:size].view(_DTYPES[info.dtype]), header.path, info.name)
    except OSError as error:
        raise CheckpointError(f"{header.path}: cannot be read ({error.strerror})") from None


def require_finite(tensor: torch.Tensor, path: Path, name: str) -> None:
    """Raises CheckpointError when `tensor` has a NaN or an infinity. Works in pieces to save memory."""
    for piece in tensor.detach().reshape(-1).split(1 << 22):
        if not bool(torch.isfinite(piece).all()):
            raise CheckpointError(f"{path}: tensor {show(name)} holds NaN or infinite values; "
                                  "use an earlier checkpoint")
