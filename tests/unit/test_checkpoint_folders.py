"""Folders and hub ids that are none, adapters, and writing without leftovers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import edit_config, refused
from safetensors.torch import save_file

import duplex.hub
from duplex.checkpoint import load_lm, load_model, save_lm
from duplex.model.lm import DuplexLM
from duplex.model.lora import add_lora, lora_state_dict
from duplex.testing import tiny_lm_config


def test_folders_that_are_none(tmp_path: Path, folder: Path):
    refused(lambda: load_model(tmp_path / "absent"), "absent", "not a folder")
    refused(lambda: load_model("./absent/x/y"), "not a folder")
    refused(lambda: load_model(folder / "config.json"), "config.json", "not a folder")
    (tmp_path / "empty").mkdir()
    refused(lambda: load_model(tmp_path / "empty"), "empty", "config.json")
    for name in ("model.safetensors", "mimi.safetensors", "tokenizer.model", "mimi_config.json"):
        (folder / name).rename(folder / "hidden")
        refused(lambda: load_model(folder), name)
        (folder / "hidden").rename(folder / name)
    (folder / "config.json").unlink()
    # Taken for a Moshi 7B, as the first published folders are.
    refused(lambda: load_model(folder), "text_card is 32000")
    refused(lambda: load_lm(folder), "does not fit a Moshi 7B", "add the config.json")


def test_no_network(tmp_path: Path):
    code = ("from duplex.checkpoint import load_model\n"
            "try: load_model('some-org/some-model')\n"
            "except ValueError as error: print(type(error).__name__, error)")
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True)
    assert out.stdout.startswith("CheckpointError some-org/some-model: ") and out.stdout.count("\n") == 1
    assert "local folder" in out.stdout


@pytest.mark.parametrize("error", [ConnectionError("x"), OSError("y"), ValueError("z\nmore"), TimeoutError()])
def test_hub_that_fails(monkeypatch, error: Exception):
    def fail(*args: Any, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    refused(lambda: load_model("some-org/some-model"), "some-org/some-model", "local folder")


def test_hub_snapshot(monkeypatch, saved: Path, tmp_path: Path):
    asked: list[tuple[str, str | None, list[str]]] = []

    def snapshot(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision, allow_patterns))
        target = tmp_path / "0123abc"
        target.mkdir(exist_ok=True)
        for name in allow_patterns:
            if (saved / name).is_file():
                shutil.copy(saved / name, target / name)
        return str(target)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    loaded = load_model("some-org/some-model", revision="main")
    assert loaded.meta["source"] == "some-org/some-model"
    assert asked[0] == ("some-org/some-model", "main", ["config.json"])
    assert asked[1][1] == "0123abc" and {"model.safetensors", "mimi.safetensors"} <= set(asked[1][2])
    (tmp_path / "0123abc" / "tokenizer.model").unlink()
    edit_config(tmp_path / "0123abc", tokenizer_name="hf://other-org/text/tokenizer.model")
    load_model(tmp_path / "0123abc")
    assert asked[-1] == ("other-org/text", None, ["tokenizer.model"])
    for name in ("hf://x", "hf://a/b", "hf://a/b/../c", "hf://a/b/", "hf://"):
        edit_config(tmp_path / "0123abc", tokenizer_name=name)
        refused(lambda: load_model(tmp_path / "0123abc"), "hub")
    assert duplex.hub.HUB_ID.fullmatch("kyutai/moshiko-pytorch-bf16")


def test_bad_adapters(folder: Path, tmp_path: Path):
    model, _, _ = load_lm(folder)
    add_lora(model, 2, 1.0, ["text_linear", "linears.0"])
    good = lora_state_dict(model)
    path = tmp_path / "lora.safetensors"
    name, key = "text_linear", "text_linear.lora_A.weight"
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"text_linears.lora_A.weight": good[key].clone()}, ("did you mean 'text_linear.weight'",)),
        ({"emb.0.lora_A.weight": torch.zeros(2, 64)}, ("emb.0",)),
        ({key: torch.zeros(2, 31)}, (key, "[2, 31] instead of [2, 32]")),
        ({key: torch.zeros(32)}, (key,)),
        ({key: torch.zeros(0, 32)}, (key,)),
        ({key: torch.zeros(3, 32)}, (name, "differ in rank")),
        ({key: None}, (name, "lacks a half")),
        ({key: torch.full((2, 32), float("nan"))}, (key, "NaN")),
        ({key: torch.zeros(2, 32, dtype=torch.int8)}, (key, "I8")),
        ({"emb.0.weight": torch.zeros(3, 3)}, ("emb.0.weight", "[3, 3]")),
    ]
    for changes, words in cases:
        save_file({k: v for k, v in (good | changes).items() if v is not None}, path)
        refused(lambda: load_lm(folder, lora=path), "lora.safetensors", *words)
    save_file(good, path)
    load_lm(folder, lora=tmp_path)
    refused(lambda: load_lm(folder, lora=tmp_path / "absent"), "absent")
    (tmp_path / "config.json").write_text('{"lora_scaling": "much"}')
    refused(lambda: load_lm(folder, lora=path), "lora_scaling")
    (tmp_path / "config.json").unlink()
    path.write_bytes(path.read_bytes()[:-1])
    refused(lambda: load_lm(folder, lora=path), "lora")
    save_file(good, folder / "model.safetensors")
    refused(lambda: load_lm(folder), "model.safetensors")


def test_whole_parameters_beside_an_adapter(folder: Path, tmp_path: Path):
    embedding = torch.randn(65, 32)
    save_file({"emb.2.weight": embedding}, tmp_path / "lora.safetensors")
    model = load_lm(folder, lora=tmp_path)[0]
    assert torch.equal(model.emb[2].weight, embedding)


def test_nothing_is_left_of_a_folder_that_fails(tmp_path: Path, saved: Path):
    model = load_lm(saved)[0]
    with torch.no_grad():
        model.out_norm.alpha[0, 0, 0] = float("nan")
    refused(lambda: save_lm(model, tmp_path / "m"), "NaN")
    with torch.no_grad():
        model.out_norm.alpha[0, 0, 0] = 1e30
    refused(lambda: save_lm(model, tmp_path / "m", dtype=torch.float16), "out_norm.alpha")
    refused(lambda: save_lm(model, tmp_path / "m", {"modeltype": "x"}), "modeltype")
    refused(lambda: save_lm(model, tmp_path / "m", {"moshi_name": "../x"}), "moshi_name")
    refused(lambda: save_lm(model, tmp_path / "m", tokenizer=tmp_path / "absent"), "cannot be written")
    (tmp_path / "file").write_text("")
    refused(lambda: save_lm(model, tmp_path / "file" / "m"), "cannot be written")
    refused(lambda: save_lm(model, tmp_path / "file"), "exists already")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_existing_folder_is_kept_unless_told_otherwise(tmp_path: Path, saved: Path):
    model = load_lm(saved)[0]
    target = save_lm(model, tmp_path / "deep" / "er" / "m")
    (target / "note").write_text("mine")
    refused(lambda: save_lm(model, target), "exists already")
    with torch.no_grad():
        model.out_norm.alpha.fill_(float("nan"))
    refused(lambda: save_lm(model, target, overwrite=True), "NaN")
    assert (target / "note").read_text() == "mine"
    with torch.no_grad():
        model.out_norm.alpha.fill_(2.0)
    save_lm(model, target, overwrite=True)
    assert not (target / "note").exists() and load_lm(target)[0].out_norm.alpha.eq(2).all()
    assert [path.name for path in target.parent.iterdir()] == ["m"]
    (tmp_path / "empty").mkdir()
    save_lm(model, tmp_path / "empty")


def test_rows_of_the_user_are_written_only_where_nobody_could_derive_them(tmp_path: Path):
    torch.manual_seed(0)
    same = DuplexLM(tiny_lm_config(n_user=4))
    raw = json.loads((save_lm(same, tmp_path / "same") / "config.json").read_text())
    assert "n_user" not in raw and load_lm(tmp_path / "same")[1].user_rows == 4
    other = DuplexLM(tiny_lm_config(n_user=2, dep_q=8))
    save_lm(other, tmp_path / "other")
    assert load_lm(tmp_path / "other")[1].user_rows == 2
