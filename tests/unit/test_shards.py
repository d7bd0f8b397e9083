"""Shards: their bytes, their index, their marks; and the order of the samples."""

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from duplex.errors import InputError
from train.data import SampleStream, ShardSource
from train.order import batch_of, positions, sample_index, step_after
from train.shards import INDEX, Encoded, Mark, ShardSet, write_index, write_shard

METADATA = {"codec": "a", "tokenizer": "b", "codebooks": "2", "vocabulary": "20", "cardinality": "16"}


def dialogue(seed: int, frames: int = 30, top: int = 16) -> Encoded:
    rng = np.random.default_rng(seed)
    marks = tuple(Mark(kind, first, first + 2) for kind, first in (("turn", seed % 7), ("overlap", 9), ("turn", 12)))
    return Encoded(f"d{seed}", rng.integers(0, top, (5, frames)), rng.integers(0, top, frames), marks)


@pytest.fixture
def folder(tmp_path):
    for shard in range(3):
        group = [dialogue(10 * shard + n, 20 + n) for n in range(shard + 1)]
        write_shard(tmp_path / f"shard-{shard:05d}.safetensors", group, METADATA)
    return tmp_path


NAMES = ["d0", "d10", "d11", "d20", "d21", "d22"]


@pytest.mark.parametrize("indexed", [False, True])
def test_what_was_written_is_read(folder, indexed):
    if indexed:
        write_index(folder)
    shards = ShardSet(folder)
    assert len(shards) == 6 and shards.frames() == 20 + 41 + 63 and shards.metadata == METADATA
    for index, name in enumerate(NAMES):
        wanted = dialogue(int(name[1:]), 20 + int(name[1:]) % 10)
        assert shards.name(index) == name
        assert torch.equal(shards.dialogue(index), torch.from_numpy(wanted.codes))
        assert torch.equal(shards.user_text(index), torch.from_numpy(wanted.user_text))
        assert shards.marks(index) == list(wanted.marks)
    with pytest.raises(InputError, match="no dialogue 6"):
        shards.dialogue(6)


def test_equal_content_gives_equal_bytes_and_others_can_read_them(folder):
    data = (folder / "shard-00001.safetensors").read_bytes()
    write_shard(folder / "shard-00001.safetensors", [dialogue(10, 20), dialogue(11, 21)], dict(reversed(METADATA.items())))
    assert (folder / "shard-00001.safetensors").read_bytes() == data
    tensors = load_file(folder / "shard-00001.safetensors")
    assert tensors["codes"].dtype == np.int16 and tensors["codes"].shape == (5, 41)
    assert tensors["starts"].tolist() == [0, 20, 41]
    assert json.loads(tensors["labels"].tobytes())["names"] == ["d10", "d11"]


def test_large_vocabularies_take_wider_numbers(tmp_path):
    wide = dialogue(3, 25, top=60_000)
    write_shard(tmp_path / "shard-00000.safetensors", [wide], METADATA)
    assert torch.equal(ShardSet(tmp_path).dialogue(0), torch.from_numpy(wide.codes))


def test_an_index_spares_the_headers_and_an_old_one_does_no_harm(folder):
    write_index(folder)
    whole = ShardSet(folder).dialogue(4)
    # The same size but unreadable: only its header would tell, and nobody looks at it until it is used.
    path = folder / "shard-00000.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    assert len(ShardSet(folder)) == 6 and torch.equal(ShardSet(folder).dialogue(4), whole)
    (folder / INDEX).write_text("{half a fi")
    with pytest.raises(InputError, match="shard-00000"):
        ShardSet(folder)
    write_shard(path, [dialogue(1), dialogue(2)], METADATA)
    assert len(ShardSet(folder)) == 7
    write_index(folder)
    os.unlink(path)
    assert len(ShardSet(folder)) == 5


def test_shards_are_mapped_not_read(folder):
    shards = ShardSet(folder)
    shards.dialogue(3)
    assert [type(codes) for codes in shards._open.values()] == [np.memmap]


def test_many_shards_keep_few_files_open(folder, monkeypatch):
    monkeypatch.setattr("train.shards.OPEN_SHARDS", 1)
    shards = ShardSet(folder)
    first = [shards.dialogue(n) for n in range(6)]
    assert len(shards._open) == 1 and len(shards._labels) <= 1
    assert all(torch.equal(a, shards.dialogue(n)) for n, a in enumerate(first))


def test_crops_of_short_dialogues_are_filled_up(folder):
    shards, rng = ShardSet(folder), np.random.default_rng(0)
    crop = shards.crop(0, 32, rng)
    assert crop.shape == (5, 32) and (crop[:, 20:] == -1).all() and torch.equal(crop[:, :20], shards.dialogue(0))
    crop = shards.crop(5, 4, rng)
    assert any(torch.equal(crop, shards.dialogue(5)[:, a : a + 4]) for a in range(19))


sizes = st.integers(1, 40)
seeds = st.integers(0, 2**32)


@settings(deadline=None)
@given(seeds, sizes, st.integers(0, 200), st.integers(0, 3))
def test_the_cached_order_is_the_plain_one(seed, size, position, again):
    epoch, offset = divmod(position, size)
    plain = np.random.default_rng((seed, epoch)).permutation(size)[offset]
    assert [sample_index(seed, position, size) for _ in range(again + 1)] == [plain] * (again + 1)


@settings(deadline=None)
@given(seeds, sizes, st.integers(1, 4), st.integers(1, 5), st.integers(0, 30))
def test_every_epoch_visits_every_dialogue_once_over_all_ranks(seed, size, world, each, epoch):
    batch = world * each
    seen = [index for step in range(epoch * size // batch, (epoch + 1) * size // batch + 1) for rank in range(world)
            for e, index in batch_of(seed, step, size, batch, rank, world) if e == epoch]
    assert sorted(seen) == list(range(size))


@settings(deadline=None)
@given(seeds, sizes, st.integers(1, 4), st.integers(1, 5), st.integers(0, 40), st.integers(1, 6))
def test_resuming_neither_skips_nor_repeats(seed, size, world, each, stop, more):
    def run(steps):
        return [batch_of(seed, s, size, world * each, r, world) for s in steps for r in range(world)]

    assert run(range(stop)) + run(range(stop, stop + more)) == run(range(stop + more))


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 20))
def test_any_number_of_ranks_and_micro_batches_sees_one_sequence(world, accumulate, each, step):
    batch = world * accumulate * each
    dealt = [p for micro in range(accumulate) for rank in range(world)
             for p in positions(step, batch, rank, world, micro, accumulate)]
    assert dealt == list(positions(step, batch)) == list(range(step * batch, (step + 1) * batch))


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(1, 12))
def test_a_run_with_another_batch_goes_on_without_a_gap(samples, batch):
    assert samples - batch < step_after(samples, batch) * batch <= samples


def test_a_stream_that_starts_later_goes_on_where_the_other_was(folder):
    source = ShardSource(ShardSet(folder), frames=8, seed=3)
    whole, later = iter(SampleStream(source, 2, rank=1, world=2)), iter(SampleStream(source, 2, rank=1, world=2, first_step=3))
    for _ in range(3):
        next(whole)
    for _ in range(4):
        a, b = next(whole), next(later)
        assert torch.equal(a["codes"], b["codes"]) and torch.equal(a["sample"], b["sample"])
