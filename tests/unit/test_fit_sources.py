"""The training command with every source of samples, through all stages of the published recipes, scaled down."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model_folders import train_tokenizer
from own_recordings import converse
from safetensors.torch import load_file, save_file
from test_coded import small_bank  # noqa: F401
from tiny_codec import write_codec
from toy_training import SMALL, ledger

from benchmarks import heard, record
from duplex.checkpoint import load_lm
from duplex.model.lm import DuplexLM
from duplex.overlay import load_toml
from duplex.saving import save_lm
from duplex.text import Tokenizer
from train import coded, export, fit, hear, prepare, text
from train.recipe import FitRecipe
from train.same_codes import TUNED, codes_fingerprint
from train.sources import data_of

RECIPES = Path(fit.__file__).with_name("recipes")
STEPS, FRAMES = 2, 30


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Codec, tokenizer, recordings, shards and text, all of them small: a folder with these names."""
    folder = tmp_path_factory.mktemp("made")
    codec, tokenizer = write_codec(folder / "codec")
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        for number in numbers:
            converse(number, 12.0).write(folder / "sound" / split, f"r{number}")
        assert prepare.main([str(folder / "sound" / split), "--codec", str(codec), "--tokenizer", str(tokenizer),
                             "--codebooks", "2", "--out", str(folder / "shards" / split)]) == 0
    (folder / "text.txt").write_text("\n\n".join(f"hello there how are you, number {n}" for n in range(80)))
    assert text.main([str(folder / "text.txt"), "--tokenizer", str(tokenizer), "--out", str(folder / "text"),
                      "--test-share", "0.3"]) == 0
    return folder


def scaled(made, **more) -> list[str]:
    """--set that makes a recipe of billions of parameters a toy: its data, start and loss stay what they are."""
    model = SMALL | {"text_card": Tokenizer.load(made / "codec" / "tokenizer.model").vocab_size}
    values = {f"model.{key}": value for key, value in model.items()}
    values |= {"train.steps": STEPS, "train.batch": 2, "train.frames": FRAMES, "train.warmup": 1, "train.validate_every": 2,
               "train.keep_every": 2, "train.depth_share": 0.5, "machine.nodes": 1, "machine.devices": 1,
               "machine.strategy": "auto", "machine.accelerator": "cpu", "machine.micro_batch": 1} | more
    return ["--set", "model.preset='toy'", *(f"{key}={json.dumps(value)}" for key, value in values.items())]


def trained(made, out, recipe: str, *options: str, **settings) -> None:
    """One stage by the command line; its ledger has all steps."""
    assert fit.main([str(RECIPES / recipe), "--out", str(out), *options, *scaled(made, **settings)]) == 0
    lines = ledger(out)
    assert [line["step"] for line in lines] == list(range(STEPS)) and all(np.isfinite(line["loss"]) for line in lines)


def exported(made, run, *options: str):
    """The model folder of a run."""
    out = run.with_name(run.name + "-model")
    assert export.main(["--run", str(run), "--codec", str(made / "codec"), "--tokenizer", str(made / "codec" / "tokenizer.model"),
                        "--out", str(out), *options]) == 0
    return str(out)


@pytest.mark.slow
def test_every_stage_goes_on_from_the_one_before(made, tmp_path):
    shards, words = ["--shards", str(made / "shards")], ["--text", str(made / "text")]
    tools = ["--codec", str(made / "codec"), "--tokenizer", str(made / "codec" / "tokenizer.model")]
    trained(made, tmp_path / "1", "moshi-1-text.toml", *words)
    folder = exported(made, tmp_path / "1")
    stages = {"2": ("moshi-2-audio.toml", [*shards, *words]), "3": ("moshi-3-streams.toml", [*shards, *words]),
              "4": ("moshi-4-duplex.toml", shards),
              "5": ("moshi-5-instruct.toml", ["--sound", str(made / "sound" / "train"), *tools, *shards]),
              "lora": ("moshi-lora.toml", shards)}
    for name, (recipe, options) in stages.items():
        before, small = load_lm(folder)[0], {"start.lora_rank": 2} if name == "lora" else {}
        trained(made, tmp_path / name, recipe, "--start", folder, *options, **small)
        folder = exported(made, tmp_path / name, *(["--merge"] if name == "lora" else []))
        after = load_lm(folder)[0]
        assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)), name
    assert list((tmp_path / "5" / "tensorboard").glob("events*")) and (tmp_path / "5" / "logs" / "metrics.csv").exists()
    assert (tmp_path / "5" / "watch.jsonl").exists()  # looked at before the first step


@pytest.mark.slow
def test_composed_in_token_space(made, tmp_path, small_bank, capsys):  # noqa: F811
    bank = tmp_path / "coded"
    assert coded.main(["--bank", str(small_bank), "--codec", str(made / "codec"), "--codebooks", "2", "--out", str(bank)]) == 0
    (tmp_path / "dialogues.toml").write_text("seconds = 20.0\n")
    options = ["--coded", str(bank), "--dialogues", str(tmp_path / "dialogues.toml"), "--shards", str(made / "shards"),
               "--codec", str(made / "codec"), "--tokenizer", str(made / "codec" / "tokenizer.model"), "--real-share", "0.5"]
    trained(made, tmp_path / "run", "toy.toml", *options,
            **{"train.heard": 1.0, "train.dropout": 0.1, "train.warp": 1, "train.codebook_dropout": 0.2,
               "train.listen": 0.5, "watch.every": 0})

    tools = ["--bank", str(small_bank), "--codec", str(made / "codec"), "--tokenizer", str(made / "codec" / "tokenizer.model")]
    assert hear.main(["--run", str(tmp_path / "run"), *tools, "--clips", "9", "--json", str(tmp_path / "heard.json")]) == 0
    found = json.loads((tmp_path / "heard.json").read_text())
    assert found["known voices"]["clips"] == 9 and found["known voices"]["wer"] > 0.5  # two steps teach nothing
    assert heard.main(["--run", str(tmp_path / "run"), *tools, "--clips", "9", "--json", str(tmp_path / "record.json")]) == 0
    assert record.read(tmp_path / "record.json")["rows"] == found and "| known voices | 9 |" in capsys.readouterr().out
    trained(made, tmp_path / "deaf", "toy.toml", *options, **{"watch.every": 0})
    assert hear.main(["--run", str(tmp_path / "deaf"), *tools]) == 2
    assert "without a listening head" in capsys.readouterr().err


def test_a_run_is_joined_with_what_it_learnt_from_alone(made, tmp_path, capsys):
    trained(made, tmp_path / "run", "toy.toml", "--shards", str(made / "shards"), "--codec", str(made / "codec"),
            **{"watch.every": 0})
    tensors = load_file(made / "codec" / "mimi.safetensors")
    for part in ("decoder", "encoder"):
        other = tmp_path / part
        other.mkdir()
        changed = next(name for name in sorted(tensors) if name.startswith(f"{part}.") and tensors[name].is_floating_point())
        save_file(tensors | {changed: tensors[changed] + 1}, other / "mimi.safetensors")
        (other / "mimi.json").write_bytes((made / "codec" / "mimi.json").read_bytes())
    foreign = train_tokenizer(tmp_path / "other.model", "bpe")
    own = made / "codec" / "tokenizer.model"
    for codec, tokenizer, said in ((tmp_path / "decoder", own, ""), (tmp_path / "encoder", own, "its codes are not those"),
                                   (made / "codec", foreign, "not the tokenizer")):
        status = export.main(["--run", str(tmp_path / "run"), "--codec", str(codec), "--tokenizer", str(tokenizer),
                              "--out", str(tmp_path / "model")])
        error = capsys.readouterr().err
        assert (status == 2 and said in error and error.count("\n") == 1) if said else status == 0, error


@pytest.mark.slow
def test_half_precision(made, tmp_path):
    for kind in ("bf16-mixed", "bf16-true"):
        trained(made, tmp_path / kind, "toy.toml", "--shards", str(made / "shards"),
                **{"machine.precision": kind, "machine.gradient_checkpointing": True})


def test_one_dialogue_alone(made, tmp_path):
    recipe = load_toml(FitRecipe, RECIPES / "toy.toml", [*scaled(made, **{"data.first": 1})[1:]])
    args = SimpleNamespace(recipe="r", shards=made / "shards", text=None, coded=None, sound=None, codec=None)
    data = data_of(args, recipe)
    alone = data.source.source.shards.dialogue(0)
    for position in range(6):
        crop = data.source.sample(position)
        assert any(torch.equal(crop, alone[:, at : at + FRAMES]) for at in range(alone.shape[1] - FRAMES + 1))
    assert torch.equal(data.validation.sample(3), alone[:, :FRAMES])


@pytest.mark.parametrize("part, tuned, said", [("decoder", False, ""), ("encoder", False, "its codes are not those of"),
                                               ("encoder", True, ""), ("", False, "")])
def test_a_model_goes_on_with_its_own_codes_alone(made, tmp_path, capsys, part, tuned, said):
    """A start whose codec has another decoder than the corpus's is fine, one with another encoder is not, unless that one learnt
    to be understood by the start's model."""
    recipe = load_toml(FitRecipe, RECIPES / "toy.toml", scaled(made)[1:])
    save_lm(DuplexLM(recipe.model), tmp_path / "model")
    tensors = load_file(made / "codec" / "mimi.safetensors")
    changed = next(name for name in sorted(tensors)
                   if name.startswith(f"{part or 'decoder'}.") and tensors[name].is_floating_point())
    tensors[changed] = tensors[changed] + 1
    save_file(tensors, tmp_path / "model" / "mimi.safetensors")
    shutil.copytree(made / "codec", tmp_path / "codec")
    if tuned:
        known = codes_fingerprint(tmp_path / "model" / "mimi.safetensors")
        (tmp_path / "codec" / TUNED).write_text(json.dumps({"codes": known}))
    codec = ["--codec", str(tmp_path / "codec")] if part else []
    status = fit.main([str(RECIPES / "toy.toml"), "--shards", str(made / "shards"), "--out", str(tmp_path / "run"), *codec,
                       "--start", str(tmp_path / "model"), *scaled(made, **{"watch.every": 0})])
    error = capsys.readouterr().err
    assert (status == 2 and said in error and error.count("\n") == 1) if said else status == 0, error
    assert ("give --codec FOLDER" in error) == (not part)


@pytest.mark.parametrize("options, settings, message", [
    (["--codec", "OTHER"], {}, "another codec than"), (["--start", "MODEL"], {}, "another tokenizer than"),
    ([], {"train.heard": 1.0}, "--coded"), ([], {"train.listen": 0.3}, "give heard as well"),
    (["--coded", "x", "--sound", "y"], {}, "--coded: composes codes"),
    ([], {"machine.devices": 0}, "devices: must be at least 1"), ([], {"augment.gain_db": [3.0, 1.0]}, "gain_db"),
    ([], {"watch.items": 0}, "items: must be at least 1"), ([], {"start.lora_rank": -1}, "lora_rank"),
    ([], {"train.heard": 1.0, "machine.strategy": "fsdp"}, "not sharded"), (["--coded", "x"], {"data.first": 1}, "data.first")])
def test_what_does_not_fit_is_refused_before_anything_is_built(made, tmp_path, capsys, options, settings, message):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mimi.safetensors").write_bytes(b"another")
    if "MODEL" in options:
        recipe = load_toml(FitRecipe, RECIPES / "toy.toml", scaled(made)[1:])
        save_lm(DuplexLM(recipe.model), tmp_path / "model", tokenizer=train_tokenizer(tmp_path / "other.model", "bpe"))
    given = [{"OTHER": str(tmp_path / "other"), "MODEL": str(tmp_path / "model")}.get(option, option) for option in options]
    out = tmp_path / "run"
    assert fit.main([str(RECIPES / "toy.toml"), "--shards", str(made / "shards"), "--out", str(out), *given,
                     *scaled(made, **settings)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not out.exists()
