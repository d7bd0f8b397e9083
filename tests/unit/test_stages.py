"""What the stages make of their samples, and recipes that cannot be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toy_training import METADATA, MODEL, PAD, corpus, recipe_file

from duplex.errors import CheckpointError, ConfigError, InputError
from duplex.model.lm import DuplexLM
from duplex.overlay import load_toml
from duplex.saving import save_lm
from train.data import SampleStream, ShardSource
from train.fit import main
from train.recipe import AugmentSettings, DataSettings, FitRecipe
from train.shards import ShardSet, write_shard
from train.sources import check_corpus
from train.stages import StageSource, TextSource, augmented, moved


class Counting:
    """Samples that say where they come from."""

    metadata = METADATA

    def __init__(self, rows: int = 5):
        self.rows = rows

    def sample(self, position: int) -> torch.Tensor:
        return (torch.arange(self.rows)[:, None] * 100 + torch.arange(30)) * 1000 + position


def stage(source=None, **settings) -> StageSource:
    return StageSource(source or Counting(), MODEL, DataSettings(**settings), seed=3)


def test_nothing_asked_nothing_changed():
    assert torch.equal(stage().sample(7), Counting().sample(7))


def test_one_voice_leaves_the_user_unknown():
    codes = stage(kind="single").sample(0)
    assert (codes[3:] == -1).all() and torch.equal(codes[:3], Counting().sample(0)[:3])
    assert torch.equal(stage(Counting(3), kind="single").sample(0), codes)  # recordings of one voice have no user rows


def test_voices_are_exchanged_and_the_other_text_is_unknown():
    codes, plain = stage(swap_share=1.0).sample(0), Counting().sample(0)
    assert torch.equal(codes[1:3], plain[3:]) and torch.equal(codes[3:], plain[1:3]) and (codes[0] == -1).all()


def test_shares_are_kept_and_choices_depend_on_the_position_alone():
    source = stage(text_mask=0.3, swap_share=0.5)
    masked = [bool((source.sample(p)[0] == -1).all()) for p in range(400)]
    assert np.mean(masked) == pytest.approx(0.3 + 0.7 * 0.5, abs=0.07)
    assert [bool((source.sample(p)[0] == -1).all()) for p in range(400)] == masked


def test_text_is_moved_either_way_by_at_most_so_much():
    source, shifts = stage(text_shift=0.24), set()
    for position in range(60):
        row, plain = source.sample(position)[0], Counting().sample(position)[0]
        known = torch.nonzero(row >= 0)[0].item()
        shifts.add(known - int((plain == row[known]).nonzero()))
    assert shifts == {-3, -2, -1, 0, 1, 2, 3}


@pytest.mark.parametrize("by", [-5, -1, 0, 2, 5, 9])
def test_a_moved_row_is_the_plain_loop(by):
    row = torch.arange(5) + 10
    expected = [int(row[t - by]) if 0 <= t - by < 5 else -1 for t in range(5)]
    assert moved(row, by).tolist() == expected


def test_text_alone(tmp_path):
    write_shard(tmp_path / "shard-00000.safetensors", [np.arange(100)[None] % 20], {"vocabulary": "20"})
    codes = TextSource(ShardSet(tmp_path), MODEL, 40, 0).sample(5)
    assert codes.shape == (5, 40) and (codes[0] >= 0).all() and (codes[1:] == -1).all()


def test_whole_steps_are_text_alone_and_every_process_agrees():
    class Text(Counting):
        def sample(self, position):
            return torch.full((5, 30), -7)

    streams = [iter(SampleStream(Counting(), 4, rank, 2, 0, 1, Text(), 0.5, 9)) for rank in (0, 1)]
    kinds = []
    for _ in range(60):
        first, second = next(streams[0]), next(streams[1])
        assert bool(first["text_only"]) == bool(second["text_only"]) == bool((first["codes"] == -7).all())
        assert torch.cat([first["sample"], second["sample"]]).tolist() == list(range(len(kinds) * 4, len(kinds) * 4 + 4))
        kinds.append(bool(first["text_only"]))
    assert 0.3 < np.mean(kinds) < 0.7


def test_micro_batches_are_the_same_samples():
    whole, parts = iter(SampleStream(Counting(), 8)), iter(SampleStream(Counting(), 8, accumulate=4))
    for _ in range(3):
        assert torch.equal(next(whole)["codes"], torch.cat([next(parts)["codes"] for _ in range(4)]))


def test_augmentation_changes_the_user_alone_and_by_its_shares():
    rng = np.random.default_rng(0)
    user, system = (0.1 * rng.standard_normal((2, 24_000))).astype(np.float32)
    keep = system.copy()
    off = AugmentSettings(gain_share=0.0, noise_share=0.0, echo_share=0.0)
    assert np.allclose(augmented(user, system, off, rng), user, atol=1e-6)
    quiet = augmented(user, system, dataclasses.replace(off, gain_share=1.0, gain_db=(-20.0, -20.0)), rng)
    assert np.allclose(quiet, 0.1 * user, atol=1e-5)
    silence = np.zeros_like(user)
    echo = augmented(silence, system, dataclasses.replace(off, echo_share=1.0, echo_scale=(0.2, 0.2), echo_delay=(0.1, 0.1)), rng)
    assert np.abs(echo[:2_300]).max() < 1e-6 < np.abs(echo[2_400:]).mean()
    noise = augmented(user, system, dataclasses.replace(off, noise_share=1.0, noise_db=(0.0, 0.0)), rng)
    assert 0.5 < np.std(noise - user) / np.std(user) < 2
    assert np.array_equal(system, keep)


@pytest.mark.parametrize("tables, message", [
    ({"train": {"step": 3}}, "did you mean 'steps'"), ({"train": {"lr": "fast"}}, "lr"), 
    ({"machines": {"devices": 2}}, "machine"),
    ({"train": {"depth_share": 1.5}}, "from 0 to 1"), ({"data": {"kind": "songs"}}, "must be one of"),
    ({"start": {"needed": True}}, "--start"), ({"start": {"lora_rank": 4}}, "--start"),
    ({"machine": {"devices": 3}}, "do not divide"), ({"machine": {"micro_batch": 3}}, "micro_batch")])
def test_a_wrong_recipe_is_one_line(tmp_path, capsys, tables, message):
    path = recipe_file(tmp_path / "r.toml", **tables)
    assert main([str(path), "--shards", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "run").exists()


def test_data_that_the_recipe_lacks_is_named(tmp_path, capsys):
    corpus(tmp_path / "shards")
    common = ["--shards", str(tmp_path / "shards"), "--out", str(tmp_path / "run")]
    for tables, message in (({"data": {"text_share": 0.5}}, "--text"), ({"data": {"augment": True}}, "--sound"),
                            ({"model": {"card": 32}}, "cardinality"), ({"model": {"text_card": 30}}, "vocabulary"),
                            ({"model": {"n_q": 2, "dep_q": 1, "delays": [0, 0, 0]}}, "codebooks")):
        assert main([str(recipe_file(tmp_path / "r.toml", **tables)), *common]) == 2
        assert message in capsys.readouterr().err
    assert main([str(recipe_file(tmp_path / "r.toml")), "--out", "x"]) == 2
    assert "--shards" in capsys.readouterr().err


def test_corpora_of_two_codecs_do_not_mix(tmp_path, capsys):
    corpus(tmp_path)
    write_shard(tmp_path / "test" / "shard-00000.safetensors", [np.full((5, 60), PAD)], METADATA | {"codec": "other"})
    assert main([str(recipe_file(tmp_path / "r.toml")), "--shards", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert "another codec" in capsys.readouterr().err


def test_a_folder_gives_the_shape_and_must_fit(tmp_path):
    folder = save_lm(DuplexLM(MODEL), tmp_path / "model")
    (tmp_path / "r.toml").write_text("[train]\nsteps = 2\n[model]\ncontext = 30\n")
    recipe = load_toml(FitRecipe, tmp_path / "r.toml", {"start.folder": str(folder)})
    assert recipe.model == dataclasses.replace(MODEL, context=30)
    with pytest.raises(CheckpointError, match="its dim is 16, the recipe's is 32"):
        load_toml(FitRecipe, recipe_file(tmp_path / "s.toml", model={"dim": 32}), {"start.folder": str(folder)})
    (tmp_path / "t.toml").write_text("[train]\nsteps = 2\n")
    with pytest.raises(ConfigError, match=r"\[model\]"):
        load_toml(FitRecipe, tmp_path / "t.toml")


def test_rows_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(InputError, match="text alone"):
        TextSource(ShardSet(corpus(tmp_path) / "train"), MODEL, 40, 0).sample(0)
    with pytest.raises(ConfigError, match="3 rows"):
        stage(Counting(3)).sample(0)


def test_check_corpus_names_the_key():
    check_corpus(MODEL, METADATA, "r")
    with pytest.raises(ConfigError, match="cardinality"):
        check_corpus(dataclasses.replace(MODEL, card=32), METADATA, "r")


def test_shard_source_of_the_corpus(tmp_path):
    assert ShardSource(ShardSet(corpus(tmp_path) / "train"), 40, 0).sample(3).shape == (5, 40)
