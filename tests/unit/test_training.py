"""Shards, sample order, codec and language-model training on a toy."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from duplex.codec import MimiCodec, MimiConfig
from duplex.config import LMConfig
from duplex.errors import ConfigError, InputError
from train.codec_data import Batch
from train.codec_model import CodecTrainer, CodecTraining, k_means
from train.codec_module import learning_rate
from train.data import DialogueData, ShardSource
from train.fit import FitRecipe, fit
from train.losses import MelLoss
from train.module import FitSettings
from train.order import sample_index
from train.shards import ShardSet, write_shard
from train.sources import check_corpus

CODEC = MimiConfig(dimension=16, n_filters=2, codebook_dim=8, n_codebooks=3, cardinality=16, num_heads=2, num_layers=1,
                   dim_feedforward=32, context=16, layer_scale=0.1)
MODEL = LMConfig(delays=(0, 0, 1, 0, 1), dim=32, num_heads=2, num_layers=2, n_q=4, dep_q=2, card=16, text_card=20, context=40,
                 norm="rms_norm_f32", gating="silu", positional_embedding="rope", depformer_dim=16, depformer_num_heads=2,
                 depformer_num_layers=1, depformer_dim_feedforward=32, depformer_pos_emb="none", depformer_gating="silu",
                 depformer_multi_linear=True, depformer_weights_per_step=True)
METADATA = {"codec": "a", "tokenizer": "b", "codebooks": "2", "vocabulary": "20", "cardinality": "16"}


@pytest.fixture
def shards(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        folder = tmp_path / split
        folder.mkdir()
        for number in range(2):
            # A pattern that can be learnt: every row counts up, each dialogue from its own start.
            dialogues = [(np.arange(50)[None] + rng.integers(0, 16, (5, 1))) % 16 for _ in range(count // 2)]
            write_shard(folder / f"shard-{number:05d}.safetensors", dialogues, METADATA)
    return tmp_path


def data(folder):
    return DialogueData(ShardSource(ShardSet(folder / "train"), 40, seed=0), ShardSet(folder / "test"), frames=40, batch=2)


def test_every_epoch_visits_every_dialogue_once():
    for epoch in range(3):
        assert sorted(sample_index(5, epoch * 17 + i, 17) for i in range(17)) == list(range(17))
    assert [sample_index(5, i, 17) for i in range(17)] != [sample_index(5, 17 + i, 17) for i in range(17)]


def test_shards_keep_their_codes(shards):
    folder = ShardSet(shards / "train")
    assert len(folder) == 6 and folder.frames() == 300
    assert folder.dialogue(4).shape == (5, 50)
    long = folder.crop(0, 60, np.random.default_rng(0))
    assert long.shape == (5, 60) and (long[:, 50:] == -1).all()


def test_bad_shards_are_named(shards):
    path = shards / "train" / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="shard-00001"):
        ShardSet(shards / "train")
    path.unlink()
    write_shard(path, [np.zeros((5, 4))], METADATA | {"codec": "other"})
    with pytest.raises(InputError, match="another codec"):
        ShardSet(shards / "train")
    with pytest.raises(InputError, match="no shards"):
        ShardSet(shards)


def test_a_corpus_of_another_shape_is_refused():
    check_corpus(MODEL, METADATA, "recipe.toml")
    with pytest.raises(ConfigError, match="cardinality"):
        check_corpus(dataclasses.replace(MODEL, card=32), METADATA, "recipe.toml")


def losses(folder):
    rows = (folder / "logs" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss")
    return [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]


def test_training_learns_and_resumes_exactly(shards, tmp_path):
    settings = FitSettings(steps=60, batch=2, frames=40, lr=5e-3, depth_lr=5e-3, warmup=5, depth_share=0.5, token_dropout=0.1,
                           validate_every=1000, keep_every=20)
    whole = fit(FitRecipe(MODEL, settings), data(shards), tmp_path / "whole")
    first, last = losses(tmp_path / "whole")[0], losses(tmp_path / "whole")[-1]
    assert last < 0.8 * first
    # Stopped after 20 steps by a run whose schedule is the same, then resumed.
    stopped = dataclasses.replace(settings)
    part = tmp_path / "part"
    module_recipe = FitRecipe(MODEL, stopped)
    with pytest.MonkeyPatch.context() as patch:
        import lightning as L

        original = L.Trainer.__init__
        patch.setattr(L.Trainer, "__init__", lambda self, *a, **k: original(self, *a, **{**k, "max_steps": 20}))
        fit(module_recipe, data(shards), part)
    resumed = fit(module_recipe, data(shards), part)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_kmeans_finds_separate_clusters():
    points = torch.cat([torch.randn(50, 4) * 0.01 + centre for centre in (0.0, 5.0, -5.0)])
    centres, counts = k_means(points, 3, torch.Generator().manual_seed(1), rounds=20)
    assert counts.sum() == 150 and torch.cdist(points, centres).min(-1).values.max() < 5.1


def test_mel_loss_is_zero_for_equal_sound_and_grows():
    loss, pcm = MelLoss(), torch.randn(1, 1, 9600) * 0.1
    assert loss(pcm, pcm) == 0
    assert loss(pcm * 0.5, pcm) < loss(torch.zeros_like(pcm), pcm)


def test_codec_trainer_learns_and_its_weights_load(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    trainer = CodecTrainer(CODEC, CodecTraining(quantize_share=1.0), teacher_dims=4).train()
    time = torch.arange(4 * 1920) / 24000
    pcm = torch.stack([0.3 * torch.sin(2 * torch.pi * f * time) for f in (200.0, 700.0)])[:, None]
    batch = Batch(pcm, torch.randn(2, 4, 4), torch.ones(2, 4, dtype=torch.bool), torch.randint(-1, 40, (2, 4, 4)))
    optimizer = torch.optim.AdamW(trainer.parameters(), lr=3e-3)
    seen = []
    for step in range(40):
        if step == 20:
            assert trainer.fill_codebooks(torch.Generator().manual_seed(0), start=True) > 0
        terms = trainer.losses(batch, quantize=step >= 20)
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        seen.append(terms["mel"].item())
    assert min(seen[10:20]) < 0.9 * seen[0] and {"commit", "distill", "phones"} <= set(terms)
    save_file({k: v.contiguous() for k, v in trainer.mimi.state_dict().items()}, tmp_path / "mimi.safetensors")
    codec = MimiCodec.from_files(tmp_path / "mimi.safetensors", CODEC, 2)
    assert codec.encode(pcm).shape == (2, 2, 4)


def test_learning_rate_rises_then_falls():
    settings = CodecTraining(steps=100, warmup=10)
    rates = [learning_rate(s, settings) for s in range(100)]
    assert rates[0] < rates[9] == max(rates) and rates[-1] < 0.1 * max(rates)


def test_codec_sizes_are_checked():
    with pytest.raises(ConfigError, match="did you mean|1920"):
        MimiConfig.from_dict({"ratios": [8, 6, 5]}, "codec.toml")
    with pytest.raises(ConfigError, match="n_filters"):
        MimiConfig.from_dict({"n_filter": 8}, "codec.toml")
    assert MimiConfig.from_dict(json.loads(json.dumps(CODEC.to_dict()))) == CODEC
