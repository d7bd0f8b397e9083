"""Runs of the trainer: stops and resumes, adapters, text mixed in, what is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from toy_training import MODEL, TRAIN, corpus, ledger, toy_data

from duplex.checkpoint import load_lm
from duplex.errors import CheckpointError, ConfigError
from duplex.model.lm import DuplexLM
from duplex.saving import save_lm
from train import keeping
from train.export import trained_model
from train.fit import check_resume, fit
from train.module import DuplexModule, is_depth, is_speech
from train.optimiser import TwoMemoriesAdamW
from train.recipe import DataSettings, FitRecipe, FitSettings, MachineSettings, StartSettings, WatchSettings
from train.stages import TextSource
from train.trust import difference

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = FitSettings(**TRAIN)


def test_stopped_and_resumed_is_as_if_nothing_had_happened(tmp_path):
    data = corpus(tmp_path / "shards", marks=True)
    recipe = FitRecipe(MODEL, SETTINGS, watch=WatchSettings(every=6, items=4, prompt=1.6, length=1.6))
    whole, part = tmp_path / "whole", tmp_path / "part"
    fit(recipe, toy_data(data), whole)
    fit(recipe, toy_data(data), part, steps=7)
    fit(recipe, toy_data(data), part)
    assert difference(whole, part) is None
    lines = ledger(part)
    assert [line["step"] for line in lines] == list(range(12))
    assert [line["samples"] for line in lines] == [[4 * n, 4 * n + 3] for n in range(12)]
    watched = [json.loads(line) for line in (part / "watch.jsonl").read_text().splitlines()]
    assert [line["step"] for line in watched] == [6, 12] and "yielded" in watched[0]
    assert watched == [json.loads(line) for line in (whole / "watch.jsonl").read_text().splitlines()]
    assert [p.name for p in (part / "logs").glob("metrics-*.csv")]  # the first part's curves are still there


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    data = corpus(tmp_path / "shards")
    recipe = FitRecipe(MODEL, dataclasses.replace(SETTINGS, steps=3))
    fit(recipe, toy_data(data), tmp_path / "whole")
    fit(dataclasses.replace(recipe, machine=MachineSettings(micro_batch=2)), toy_data(data), tmp_path / "parts")
    whole, parts = ledger(tmp_path / "whole"), ledger(tmp_path / "parts")
    assert [line["samples"] for line in whole] == [line["samples"] for line in parts]
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], rel=0.02)


def test_a_difference_is_found(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        torch.save({"state_dict": {"x": torch.zeros(2)}}, tmp_path / name / "last.ckpt")
        (tmp_path / name / "ledger.jsonl").write_text('{"step": 0, "loss": 1.5, "samples": [0, 3]}\n')
    assert difference(tmp_path / "a", tmp_path / "b") is None
    torch.save({"state_dict": {"x": torch.ones(2)}}, tmp_path / "b" / "last.ckpt")
    assert "weights" in difference(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "ledger.jsonl").write_text('{"step": 0, "loss": 1.25, "samples": [0, 3]}\n')
    assert "step 0" in difference(tmp_path / "a", tmp_path / "b")


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    (tmp_path / "ledger.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"ste')
    assert keeping.entries(tmp_path / "ledger.jsonl") == [{"step": 0}, {"step": 1}]


def test_adapters_train_alone_and_come_out_in_the_published_form(tmp_path):
    torch.manual_seed(0)
    folder = save_lm(DuplexLM(MODEL), tmp_path / "base")
    recipe = FitRecipe(MODEL, SETTINGS, StartSettings(folder=str(folder), lora_rank=2, lora_scaling=2.0),
                       watch=WatchSettings(every=12, items=2, prompt=1.6, length=1.6))
    fit(recipe, toy_data(corpus(tmp_path / "shards")), tmp_path / "run")
    watched = [json.loads(line) for line in (tmp_path / "run" / "watch.jsonl").read_text().splitlines()]
    assert [line["step"] for line in watched] == [0, 12]  # trained weights are looked at before they change
    assert ledger(tmp_path / "run")[-1]["loss"] < ledger(tmp_path / "run")[0]["loss"]
    model = trained_model(tmp_path / "run")
    before = dict(load_lm(folder)[0].named_parameters())
    for name, p in model.named_parameters():
        assert name not in before or torch.equal(p, before[name]), name
    out, codes = save_lm(model, tmp_path / "tuned"), torch.randint(0, 16, (1, 5, 20))
    again = load_lm(out)[0]
    with torch.no_grad():
        tuned, base = model(codes).text_logits, load_lm(folder)[0](codes).text_logits
        assert torch.allclose(again(codes).text_logits, tuned, atol=1e-5) and not torch.allclose(tuned, base, atol=1e-3)


def test_the_depth_transformer_learns_alone(tmp_path):
    torch.manual_seed(0)
    folder = save_lm(DuplexLM(MODEL), tmp_path / "base")
    data, out = corpus(tmp_path / "shards"), tmp_path / "run"
    recipe = FitRecipe(MODEL, SETTINGS, StartSettings(folder=str(folder), depth_only=True))
    module = fit(recipe, toy_data(data), out)
    before = dict(load_lm(folder)[0].named_parameters())
    for name, p in trained_model(out).named_parameters():
        assert torch.equal(p, before[name]) != is_depth(name), name
    assert ledger(out)[-1]["loss"] < ledger(out)[0]["loss"]
    codes = torch.randint(0, 16, (1, 5, 20))
    assert not module.model(codes).text_logits.requires_grad  # nothing of the temporal transformer is kept for a backward pass
    with pytest.raises(CheckpointError, match=r"learnt another part of the model \(depth, now all\)"):
        fit(FitRecipe(MODEL, SETTINGS, StartSettings(folder=str(folder))), toy_data(data), out)
    for change, says in (({"start": StartSettings(depth_only=True)}, "start.folder"),
                         ({"train": dataclasses.replace(SETTINGS, heard=1.0)}, "train.heard"),
                         ({"data": DataSettings(kind="text")}, "data"),
                         ({"machine": MachineSettings(strategy="fsdp")}, "machine.strategy")):
        with pytest.raises(ConfigError, match=f"start.depth_only: {says}: "):
            dataclasses.replace(recipe, **change)
    with pytest.raises(ConfigError, match="lora_rank"):
        StartSettings(folder=str(folder), depth_only=True, lora_rank=2)


def test_full_fine_tuning_begins_with_the_folder(tmp_path):
    torch.manual_seed(0)
    folder = save_lm(DuplexLM(MODEL), tmp_path / "base")
    module = DuplexModule(MODEL, SETTINGS, FitRecipe(MODEL, SETTINGS, StartSettings(folder=str(folder))))
    for (name, a), b in zip(module.model.named_parameters(), load_lm(folder)[0].parameters(), strict=True):
        assert torch.equal(a, b) and a.requires_grad, name


def test_text_alone_is_mixed_in_and_leaves_the_depth_transformer_be(tmp_path):
    from train.shards import ShardSet, write_shard

    data = corpus(tmp_path / "shards")
    write_shard(tmp_path / "shard-00000.safetensors", [np.arange(200)[None] % 20], {"vocabulary": "20"})
    text = TextSource(ShardSet(tmp_path), MODEL, 40, 0)
    recipe = FitRecipe(MODEL, dataclasses.replace(SETTINGS, steps=2, weight_decay=0.5), data=DataSettings(text_share=1.0))
    torch.manual_seed(SETTINGS.seed)
    begin = DuplexModule(MODEL, SETTINGS).model
    module = fit(recipe, toy_data(data, text=text, text_share=1.0), tmp_path / "run")
    optimizer = module.trainer.optimizers[0]
    assert isinstance(optimizer, TwoMemoriesAdamW)
    text, depth = optimizer.state[module.model.text_emb.weight], optimizer.state[module.model.linears[0].weight]
    assert text["text_only_exp_avg"].any() and not text["exp_avg"].any() and text["text_only_step"] == 2
    assert not depth["exp_avg"].any() and "text_only_exp_avg" not in depth
    for (name, a), b in zip(begin.named_parameters(), module.model.parameters(), strict=True):
        assert torch.equal(a, b) == is_speech(name), name


def test_moments_of_text_and_speech_are_kept_apart():
    torch.manual_seed(0)
    pairs = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    both = TwoMemoriesAdamW([pairs[0]], lr=0.1)
    speech, text = torch.optim.AdamW([pairs[1]], lr=0.1), torch.optim.AdamW([pairs[2]], lr=0.1)
    shadow = torch.ones(3)
    for step in range(6):
        kind = step % 3 == 2
        grad = torch.randn(3) * (100 if kind else 1)
        both.text_only, pairs[0].grad = kind, grad.clone()
        both.step()
        optimizer, p = (text, pairs[2]) if kind else (speech, pairs[1])
        with torch.no_grad():
            p.copy_(shadow)
        p.grad = grad.clone()
        optimizer.step()
        shadow = p.detach().clone()
        assert torch.allclose(pairs[0], shadow)


def test_a_loss_that_is_no_number_stops_the_run_and_is_never_saved(tmp_path):
    data = corpus(tmp_path / "shards")
    recipe = FitRecipe(MODEL, dataclasses.replace(SETTINGS, lr=1e30, depth_lr=1e30, warmup=1, keep_every=1, clip=0.0))
    with pytest.raises(FloatingPointError, match="step .*lower train.lr"):
        fit(recipe, toy_data(data), tmp_path / "run")
    last = tmp_path / "run" / "last.ckpt"
    assert not last.exists() or torch.load(last, weights_only=True)["global_step"] < 12


def test_no_room_on_the_disk_is_seen_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda path: type("U", (), {"free": 1000})())
    with pytest.raises(ConfigError, match="two checkpoints need"):
        fit(FitRecipe(MODEL, SETTINGS), toy_data(corpus(tmp_path / "shards")), tmp_path / "run")


def test_a_run_of_another_shape_is_not_resumed(tmp_path):
    data = corpus(tmp_path / "shards")
    fit(FitRecipe(MODEL, dataclasses.replace(SETTINGS, steps=1)), toy_data(data), tmp_path / "run")
    other = FitRecipe(dataclasses.replace(MODEL, dim=32), SETTINGS)
    with pytest.raises(CheckpointError, match="dim is 16, the recipe's is 32"):
        fit(other, toy_data(data), tmp_path / "run")
    shared = FitRecipe(MODEL, SETTINGS, machine=MachineSettings(strategy="fsdp"))
    with pytest.raises(CheckpointError, match="without machine.strategy 'fsdp'"):
        check_resume(tmp_path / "run", shared)
    last = tmp_path / "run" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="last.ckpt: is cut short"):
        fit(FitRecipe(MODEL, SETTINGS), toy_data(data), tmp_path / "run")


def test_what_makes_no_conversation_is_not_watched():
    for kind in ("text", "single"):
        with pytest.raises(ConfigError, match=f"watch.every: training on data.kind '{kind}'"):
            FitRecipe(MODEL, SETTINGS, data=DataSettings(kind=kind), watch=WatchSettings(every=5))


def test_a_run_does_not_go_on_with_other_data_than_it_learnt_from(tmp_path):
    data, out = corpus(tmp_path / "shards"), tmp_path / "run"
    recipe = FitRecipe(MODEL, SETTINGS)
    fit(recipe, toy_data(data), out, steps=2)
    kept = {name: (out / name).read_bytes() for name in ("last.ckpt", "made_with.json", "ledger.jsonl")}
    for key, says in (("tokenizer", "the tokens of another tokenizer"), ("codec", "the codes of another codec")):
        other = toy_data(data)
        other.source.metadata = other.source.metadata | {key: "0123"}
        with pytest.raises(CheckpointError, match=f"learnt from {says} .*, now 0123"):
            fit(recipe, other, out)
    for name, value in (("seed", 9), ("batch", 6)):
        with pytest.raises(CheckpointError, match=f"another train.{name} .*, now {value}"):
            fit(dataclasses.replace(recipe, train=dataclasses.replace(SETTINGS, **{name: value})), toy_data(data), out)
    assert kept == {name: (out / name).read_bytes() for name in kept}
    fit(recipe, toy_data(data), out)
    assert len(ledger(out)) == 12


@pytest.mark.parametrize("failure, reason", [
    (OSError(errno.ENOSPC, "No space left on device"), "No space left"),
    (RuntimeError("PytorchStreamWriter failed writing file data/3"), "torch could not write"),
    (CheckpointException("save", {1: (OSError(errno.ENOSPC, "No space left on device"), None)}), "No space left")])
def test_a_disk_that_is_full_stops_a_save_and_spoils_nothing(tmp_path, failure, reason):
    class Trainer:
        global_step, is_global_zero, strategy = 7, True, None

        def save_checkpoint(self, path):
            path.write_bytes(b"half")
            raise failure

    (tmp_path / "last.ckpt").write_bytes(b"whole")
    keeper = keeping.Keeper(tmp_path, 1, keeping.Ledger(tmp_path))
    with pytest.raises(ConfigError, match=f"step 7 cannot be written \\({reason}.*free some space"):
        keeper.save(Trainer())
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("last.ckpt", b"whole")]


def test_an_error_of_another_kind_is_not_taken_for_a_full_disk(tmp_path):
    assert keeping.unwritable(RuntimeError("shapes do not fit")) is None
    assert keeping.unwritable(CheckpointException("save", {0: (KeyError("x"), None)})) is None
