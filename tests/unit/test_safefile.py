"""The safetensors reader: equal to the reference library on good files, one-line errors on every bad one."""

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from duplex.errors import CheckpointError
from duplex.safefile import (
    TensorReader,
    check_against,
    iterate_tensors,
    read_header,
    require_finite,
)

SHAPES = {"emb.weight": (5, 4), "out.weight": (3, 4), "norm.alpha": (1, 1, 4)}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "good.safetensors"
    save_file({name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}, path)
    return path


def write(path: Path, header: object, body: bytes = b"", announced: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(raw) if announced is None else announced
    path.write_bytes(length.to_bytes(8, "little") + raw + body)
    return path


def message(path: Path) -> str:
    """The error of `path`, checked to be one line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        dict(iterate_tensors(read_header(path)))
    text = str(caught.value)
    assert "\n" not in text and path.name in text and len(text) < 500
    return text


def test_reads_what_the_reference_library_writes(tmp_path: Path):
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16,
              torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
    tensors = {str(dtype): (torch.randn(4, 3) * 50).to(dtype) for dtype in dtypes}
    tensors |= {"bool": torch.tensor([True, False]), "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5)}
    path = tmp_path / "all.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    assert header.metadata == {"format": "pt"}
    ours, theirs = dict(iterate_tensors(header)), load_file(path)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name])


def test_every_header_length_is_told_from_other_formats(tmp_path: Path):
    for padding in range(0, 300):  # the first byte of the length takes every value, those of pickles included
        raw = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        path = write(tmp_path / "padded.safetensors", raw + b" " * padding, bytes(8))
        assert dict(iterate_tensors(read_header(path)))["a"].tolist() == [0, 0]


def test_truncated_anywhere(good: Path, tmp_path: Path):
    data = good.read_bytes()
    rng = random.Random(0)
    cuts = {0, 1, 7, 8, 9, 10, len(data) - 1, *(rng.randrange(len(data)) for _ in range(60))}
    for cut in cuts:
        path = tmp_path / "cut.safetensors"
        path.write_bytes(data[:cut])
        assert "again" in message(path)


def test_file_that_shrinks_between_header_and_body(good: Path):
    header = read_header(good)
    good.write_bytes(good.read_bytes()[:-10])
    with TensorReader(header) as reader, pytest.raises(CheckpointError, match="ended inside"):
        for name in SHAPES:
            reader.read(name)


def test_bytes_after_the_last_tensor(good: Path):
    good.write_bytes(good.read_bytes() + b"xx")
    assert "2 bytes after" in message(good)


def test_oversized_header_takes_no_memory(tmp_path: Path):
    path = write(tmp_path / "huge.safetensors", {}, announced=1 << 62)
    assert "not a safetensors file" in message(path)
    path = write(tmp_path / "large.safetensors", {}, announced=90_000_000)
    assert "truncated inside its header" in message(path)


@pytest.mark.parametrize("content, word", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    (b"GGUF" + bytes(60), "GGUF"),
    (b"PK\x03\x04" + bytes(60), "pickle"),
    (b"\x80\x02}q\x00" + bytes(60), "pickle"),
    (b"", "only 0 bytes"),
])
def test_other_formats_are_named(tmp_path: Path, content: bytes, word: str):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    assert word in message(path)


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


@pytest.mark.parametrize("header", [
    b"not json at all", b"[]", b"3", b'"x"', b"{", b"\xff\xfe{}", b"[" * 20000, b'{"a":' * 20000,
    b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    {"a": 1}, {"a": {}}, {"a": entry(dtype="F33")}, {"a": entry(dtype=3)}, {"a": entry(dtype=["F32"])},
    {"a": entry(shape=[3])}, {"a": entry(shape=[-2])}, {"a": entry(shape=[2.0])},
    {"a": entry(shape=[True, 2])},
    {"a": entry(shape="2")}, {"a": entry(shape=[10**30])}, {"a": entry(shape=[1] * 17 + [2])},
    {"a": entry(data_offsets=[8, 0])}, {"a": entry(data_offsets=[0, 8, 8])},
    {"a": entry(data_offsets=[-8, 0])},
    {"a": entry(data_offsets=[0, "8"])}, {"a": entry(data_offsets=[100, 108])},
    {"a": entry(data_offsets=[4, 12])},
    {"a": entry(), "b": entry()}, {"a": entry(), "b": entry(data_offsets=[4, 12])}, {"a": entry(extra=1)},
    {"__metadata__": []}, {"__metadata__": {"a": 1}, "a": entry()}, {},
    {"a": entry(shape=[1 << 60], data_offsets=[0, 1 << 62])},
    {"\ud800\n": entry(shape=[3])},
], ids=lambda header: str(header)[:40])
def test_bad_headers(tmp_path: Path, header: object):
    message(write(tmp_path / "bad.safetensors", header, bytes(8)))


def test_missing_file_and_folder(tmp_path: Path):
    message(tmp_path / "absent.safetensors")
    message(tmp_path)


def test_names_and_shapes_are_compared(good: Path):
    header = read_header(good)
    check_against(header, SHAPES)
    for expected, words in [
        (SHAPES | {"more.weight": (1,)}, ["lacks 'more.weight'"]),
        ({name: SHAPES[name] for name in SHAPES if name[0] != "o"}, ["unexpected 'out.weight'"]),
        (SHAPES | {"out.weight": (4, 3)}, ["'out.weight' has shape [3, 4] instead of [4, 3]"]),
        ({name.replace("emb", "xemb"): SHAPES[name] for name in SHAPES}, ["mean 'xemb.weight'"]),
        ({f"x{i}": (1,) for i in range(50)}, ["and 47 more"]),
    ]:
        with pytest.raises(CheckpointError) as caught:
            check_against(header, expected)
        assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(tmp_path: Path, dtype: torch.dtype):
    path = tmp_path / "quantised.safetensors"
    save_file({"a": torch.zeros(4).to(dtype)}, path)
    with pytest.raises(CheckpointError, match="quantised"):
        check_against(read_header(path), {"a": (4,)})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(value: float):
    tensor = torch.zeros(3, 5)
    require_finite(tensor, Path("f"), "name")
    tensor[2, 4] = value
    with pytest.raises(CheckpointError, match="f: tensor 'name'"):
        require_finite(tensor, Path("f"), "name")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_header_loads_identically_or_is_refused(good: Path, data: st.DataObject):
    raw = bytearray(good.read_bytes())
    header_end = 8 + int.from_bytes(raw[:8], "little")
    original = dict(iterate_tensors(read_header(good)))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    path = good.with_name("mutated.safetensors")
    path.write_bytes(bytes(raw))
    try:
        header = read_header(path)
        check_against(header, SHAPES)
        loaded = dict(iterate_tensors(header))
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert all(torch.equal(loaded[name], original[name]) for name in SHAPES)
