"""The command that trains a codec: stopped and resumed it gives the same bytes, and what cannot go on is said in a line."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import train_together
from safetensors.torch import load_file
from test_coded import small_bank  # noqa: F401
from torch import allclose, cuda, equal, tensor
from toy_training import ledger

from duplex.overlay import load_toml
from train import codec, codec_module
from train.codec_module import CodecRecipe

RECIPE = """
[codec]
dimension = 16
n_filters = 2
codebook_dim = 8
n_codebooks = 3
cardinality = 16
num_heads = 2
num_layers = 1
dim_feedforward = 32
context = 16

[train]
steps = 4
batch = 2
frames = 4
warmup = 1
quantize_from = 1
distill = 0.0
phones = 0.0
codebook_dropout = 0.5
keep_every = 1

[machine]
accelerator = "cpu"

[adversarial]
on = true
windows = [128, 64]
channels = 2
"""


@pytest.fixture
def command(tmp_path, small_bank):  # noqa: F811
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    return lambda out, *more: codec.main([str(recipe), "--bank", str(small_bank), "--out", str(tmp_path / out), *more])


def test_a_stopped_run_goes_on_as_if_it_had_not_been(command, tmp_path, capsys):
    assert command("whole") == 0 and command("parts", "--until", "2") == 0
    half = load_file(tmp_path / "parts" / "mimi.safetensors")
    assert command("parts") == 0
    whole, parts = (load_file(tmp_path / name / "mimi.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(equal(whole[key], parts[key]) for key in whole)
    assert not all(equal(half[key], whole[key]) for key in whole)  # the comparison can fail
    assert json.loads((tmp_path / "whole" / "mimi.json").read_text())["dimension"] == 16


@pytest.mark.slow
def test_two_processes_have_the_losses_and_the_codebooks_of_one(small_bank, tmp_path):  # noqa: F811
    """Of plain losses, all of the batch quantised: which sounds are not is drawn in each process, and features are compared
    relative to the process's own recordings. With discriminators it trains on and stays near."""
    whole = RECIPE.replace("steps = 4", "steps = 6\nquantize_share = 1.0")
    runs = {"one": (whole, 1), "two": (whole, 2), "hard": (whole, 2)}
    for name, (text, world) in runs.items():
        recipe = tmp_path / f"{name}.toml"
        recipe.write_text(text if name == "hard" else text.replace("on = true", "on = false"))
        train_together(tmp_path / name, [str(recipe), "--bank", str(small_bank), "--set", f"machine.devices={world}"], world,
                       command="codec")
    one, two, hard = (ledger(tmp_path / name) for name in runs)
    for lines in (one, two, hard):
        assert [line["samples"] for line in lines] == [[2 * n, 2 * n + 1] for n in range(6)]
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-4)
    assert all(a["loss"] > b["loss"] for a, b in zip(hard, two, strict=True))  # the discriminators' terms are in it
    first, second = (load_file(tmp_path / name / "mimi.safetensors") for name in ("one", "two"))
    assert first.keys() == second.keys()
    for name in first:
        if name.endswith("embedding_sum"):  # of which each process holds its share
            usage = name.replace("embedding_sum", "cluster_usage")
            first[name], second[name] = (weights[name] / weights[usage][:, None] for weights in (first, second))
        if not name.endswith("cluster_usage"):
            assert allclose(first[name], second[name], rtol=2e-2, atol=2e-3), name


@pytest.mark.parametrize(("table", "says"), [
    ('strategy = "fsdp"', "machine.strategy"), ("micro_batch = 1", "machine.micro_batch"),
    ("gradient_checkpointing = true", "machine.gradient_checkpointing"), ('precision = "bf16-mixed"', "machine.precision"),
    ("devices = 3", "do not divide among 3 processes"),
])
def test_machines_that_no_codec_is_trained_on_are_refused(command, tmp_path, capsys, table, says):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace('accelerator = "cpu"', table))
    assert command("run") == 2 and not (tmp_path / "run").exists()
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda folder: (folder / "last.ckpt").write_bytes(b"PK"), "does not fit this recipe or is damaged"),
    (lambda folder: (folder.parent / "recipe.toml").write_text(RECIPE.replace("dimension = 16", "dimension = 24", 1)),
     "does not fit this recipe or is damaged"),
    (lambda folder: (folder.parent / "recipe.toml").write_text(RECIPE.replace("[train]", '[train]\nstage = "decoder"')),
     "it is of another stage"),
])
def test_a_state_that_cannot_be_taken_up_is_named(command, tmp_path, capsys, spoil, says):
    assert command("run", "--until", "1") == 0
    kept = (tmp_path / "run" / "mimi.safetensors").read_bytes()
    spoil(tmp_path / "run")
    assert command("run") == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and says in error[0] and "last.ckpt" in error[0]
    assert (tmp_path / "run" / "mimi.safetensors").read_bytes() == kept


def test_a_damaged_start_is_named(command, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mimi.safetensors").write_bytes(b"no")
    assert command("run", "--start", str(tmp_path / "other")) == 2
    assert "other/mimi.safetensors: damaged" in capsys.readouterr().err


def test_labels_that_are_missing_are_said(command, tmp_path, capsys):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("phones = 0.0", "phones = 1.0"))
    assert command("run", "--until", "1") == 0
    assert "no --phones: the semantic codebook learns nothing from it" in capsys.readouterr().err


def test_the_recipe_of_the_released_size_is_that_of_the_released_size():
    recipe = load_toml(CodecRecipe, Path(codec.__file__).parent / "recipes" / "codec-mimi.toml", {})
    assert recipe.codec.n_codebooks == 32 and recipe.codec.cardinality == 2048 and recipe.codec.dimension == 512
    assert recipe.adversarial.on and recipe.train.codebook_dropout > 0


def test_a_disk_that_is_full_at_the_last_step_leaves_no_run_that_seems_finished(command, tmp_path, capsys, monkeypatch):
    whole = codec_module.replace_file

    def full(path, write):
        if path.name == "mimi.safetensors":
            raise OSError(28, "No space left on device")
        whole(path, write)

    monkeypatch.setattr(codec_module, "replace_file", full)
    assert command("run", "--set", "train.keep_every=9") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the codec of step 4 could not be written" in error and "No space left" in error
    monkeypatch.setattr(codec_module, "replace_file", whole)
    assert command("run") == 0 and (tmp_path / "run" / "mimi.safetensors").exists()


def test_what_cannot_be_done_is_said_before_anything_is_written(command, tmp_path, capsys):
    for options, says in ((("--until", "0"), "--until 0"), (("--steps", "-1"), "train.steps is -1"),
                          (("--set", "train.quantize_from=0"), "train.quantize_from is 0"),
                          (("--set", 'machine.accelerator="gpu"'), "machine: accelerator 'gpu'")):
        if "gpu" in says and cuda.is_available():
            continue
        assert command("run", *options) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert says in error[-1] and not (tmp_path / "run" / "mimi.safetensors").exists()
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "resume.pt").write_bytes(b"")
    assert command("run") == 2 and "an older version" in capsys.readouterr().err


def test_lines_of_processes_that_had_different_terms(tmp_path, monkeypatch):
    """Labels may be missing in one process: its line must not move under another's name."""
    module = SimpleNamespace(device="cpu", used=0.5)
    trainer = SimpleNamespace(global_step=50, is_global_zero=True, logger=None)
    log = codec_module.CodecLog(tmp_path, 100)
    theirs = {"total": 3.0, "phones": 7.0}
    sent = []

    def both(values):
        mine = sent.append(values) or len(sent)
        return values + tensor([theirs.get(name, 0.0) if mine == 1 else float(name in theirs) for name in codec_module.TERMS])

    monkeypatch.setattr(codec_module, "sum_of_all", both)
    log.on_train_batch_end(trainer, module, {"loss": tensor(1.0), "distill": tensor(0.5)})
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert (line["total"], line["distill"], line["phones"]) == (2.0, 0.5, 7.0) and "mel" not in line
