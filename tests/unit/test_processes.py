"""Two processes that share the work have the losses of one: copies of the model (DDP), and shares of it (FSDP2)."""

from __future__ import annotations

import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from processes import LIMIT, train_together
from toy_training import MODEL, corpus, ledger, recipe_file

from duplex.checkpoint import load_lm
from duplex.loss import NLL
from duplex.saving import save_lm
from train import fit, together
from train.export import trained_model
from train.forked import start
from train.keeping import LAST
from train.shards import write_shard

STEPS = 24


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A recipe with everything that processes have to agree on (text alone, curves, validation, rollouts), and its arguments."""
    folder = tmp_path_factory.mktemp("stage")
    data = corpus(folder / "shards", marks=True)
    for split in ("train", "test"):
        (folder / "text" / split).mkdir(parents=True)
        write_shard(folder / "text" / split / "shard-00000.safetensors", [np.arange(400)[None] % 20],
                    {"vocabulary": "20", "tokenizer": "b"})
    recipe = recipe_file(
        folder / "r.toml", machine={"accelerator": "cpu"}, data={"text_share": 0.3},
        train={"steps": STEPS, "schedule": "constant", "validate_every": 10, "keep_every": 8, "weight_decay": 0.3},
        watch={"every": 12, "items": 4, "prompt": 1.6, "length": 1.6})
    return [str(recipe), "--shards", str(data), "--text", str(folder / "text"), "--set"]


@pytest.fixture(scope="module")
def one(stage, tmp_path_factory):
    """The same recipe in one process."""
    out = tmp_path_factory.mktemp("one")
    train_together(out, [*stage, "machine.devices=1"])
    assert [line["step"] for line in ledger(out)] == list(range(STEPS))
    return out


def same(one, out) -> None:
    """Losses, samples and weights agree but for the rounding of sums."""
    a, b = ledger(one), ledger(out)
    assert [x["samples"] for x in a] == [x["samples"] for x in b] == [[4 * n, 4 * n + 3] for n in range(STEPS)]
    assert [x["loss"] for x in b] == pytest.approx([x["loss"] for x in a], rel=1e-5)
    for x, y in zip(trained_model(one).parameters(), trained_model(out).parameters(), strict=True):
        assert torch.allclose(x, y, atol=1e-4)


@pytest.mark.slow
def test_copies(stage, one, tmp_path):
    train_together(tmp_path, [*stage, "machine.devices=2", 'machine.strategy="ddp"'], world=2)
    same(one, tmp_path)
    watched = [json.loads(line) for line in (tmp_path / "watch.jsonl").read_text().splitlines()]
    assert [line["step"] for line in watched] == [12, 24]


@pytest.mark.slow
def test_a_run_has_its_folder_alone_and_ends_at_once_when_it_is_told_to(stage, tmp_path, capsys):
    out, two = tmp_path / "run", [*stage, "machine.devices=2", 'machine.strategy="ddp"']
    out.mkdir()
    running = start([*two, "train.steps=100000", "--out", str(out)], out / "said.log", world=2)
    try:
        until = time.monotonic() + LIMIT
        while not (out / LAST).exists() and time.monotonic() < until:
            time.sleep(0.2)
        before = (out / "config.json").read_bytes()
        assert fit.main([*stage, "machine.devices=1", "train.steps=5", "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and "another process trains there" in said and said.count("\n") == 1
        assert (out / "config.json").read_bytes() == before
        for process in running:
            os.kill(process.pid, signal.SIGTERM)
        for process in running:
            process.join(30)
        assert running[0].exitcode == 130
        assert "error: interrupted; start the command again to go on" in (out / "said.log").read_text()
        assert all(process.exitcode is not None for process in running)
    finally:
        for process in running:
            process.kill()
    kept = torch.load(out / LAST, weights_only=True)["global_step"]
    train_together(out, [*two, f"train.steps={kept + 2}"], world=2)  # the folder is free again, and the run goes on
    assert [line["step"] for line in ledger(out)] == list(range(kept + 2))


@pytest.mark.slow
def test_shares_are_kept_resumed_and_exported_as_a_plain_folder(stage, one, tmp_path):
    out, two = tmp_path / "run", [*stage, "machine.devices=2", 'machine.strategy="fsdp"']
    train_together(out, [*two, "train.steps=13"], world=2)
    assert (out / "step-00000013").is_dir() and len(ledger(out)) == 13
    (out / "step-00000016").mkdir()  # as a kill in the middle of a save leaves it
    train_together(out, two, world=2)
    same(one, out)
    assert [p.name for p in out.glob("step-*")] == [f"step-{STEPS:08d}"]
    folder, codes = save_lm(trained_model(out), tmp_path / "model"), torch.randint(0, 16, (1, 5, 20))
    with torch.no_grad():
        assert torch.allclose(load_lm(folder)[0](codes).text_logits, trained_model(one)(codes).text_logits, atol=1e-3)
    assert load_lm(folder)[0].config.dim == MODEL.dim


@pytest.mark.slow
def test_a_bad_loss_stops_all_processes_at_the_same_step(stage, tmp_path):
    said = train_together(tmp_path, [*stage, "machine.devices=2", 'machine.strategy="ddp"', "train.lr=1e30", "train.warmup=1",
                                     "train.clip=0.0"], world=2, status=2)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and len(set(errors)) == 1 and "the loss is not finite" in errors[0], said[-2000:]


def test_likelihoods_add_up_where_a_process_lacks_a_kind_of_token(monkeypatch):
    """What is summed has one shape whatever a batch contains: else the processes wait for each other for ever."""
    mine = NLL({"text": torch.tensor(3.0), "text_word": torch.tensor(0.0)},
               {"text": torch.tensor(2), "text_word": torch.tensor(0)})
    theirs = torch.tensor([5.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    monkeypatch.setattr(together, "processes", lambda: 2)
    monkeypatch.setattr(together.dist, "all_reduce", lambda values: values.add_(theirs))
    assert together.nll_of_all(mine).means() == {"text": 2.0, "text_word": 4.0}
