"""Plans of the recipes: counted from shapes, without weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from duplex.config import PRESETS
from duplex.model.lm import DuplexLM
from duplex.overlay import load_toml
from duplex.weights import empty_lm
from train.plan import GPUS, PlannedRecipe, adapter_parameters, cluster, main, plan, sizes, step_flops
from train.recipe import StartSettings

RECIPES = Path(__file__).resolve().parents[2] / "train" / "recipes"
CLUSTERS = {"moshi-1-text": "128xH100", "moshi-2-audio": "128xH100", "moshi-3-streams": "128xH100", "moshi-4-duplex": "16xH100",
            "moshi-5-instruct": "64xH100", "moshi-lora": "1xH100"}


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_stage_of_the_real_thing_fits(name, capsys):
    assert main([str(RECIPES / f"{name}.toml"), "--cluster", CLUSTERS[name], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 7.5e9 < told["parameters"] < 7.8e9  # Moshi 7B as released
    assert told["fits"] and 0 < told["hours"] < 5000


def test_the_stages_see_as_much_sound_a_step_as_published(capsys):
    hours = {}
    for name in ("moshi-2-audio", "moshi-3-streams", "moshi-4-duplex", "moshi-5-instruct"):
        main([str(RECIPES / f"{name}.toml"), "--cluster", CLUSTERS[name], "--json"])
        told = json.loads(capsys.readouterr().out)
        hours[name] = told["frames_per_step"] * 0.08 / 3600
    assert hours == {"moshi-2-audio": pytest.approx(16, rel=0.1), "moshi-3-streams": pytest.approx(8, rel=0.1),
                     "moshi-4-duplex": pytest.approx(2 / 3, rel=0.05), "moshi-5-instruct": pytest.approx(2.7, rel=0.03)}


def test_parts_add_up_to_a_real_model():
    config = PRESETS["toy"]
    total, temporal, depth, embeddings = sizes(empty_lm(config, "x"))
    model = DuplexLM(config)
    assert total == sum(p.numel() for p in model.parameters()) == temporal + depth + embeddings
    assert embeddings == (sum(e.weight.numel() for e in (*model.emb, model.text_emb, *model.depformer_emb))
                          + model.depformer_text_emb.weight.numel())


def test_arithmetic_is_that_of_the_profiler():
    """Of one forward pass, counted by the framework: the plan counts 3 of them (forward and backward)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config = dataclasses.replace(PRESETS["toy"], context=64)
    recipe = PlannedRecipe(config)
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, batch=2, frames=64, depth_share=1.0))
    model = DuplexLM(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randint(0, 500, (2, 9, 64)))
    _, temporal, depth, _ = sizes(model)
    assert step_flops(config, recipe, temporal, depth) / 3 == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_adapters_are_counted():
    from duplex.model.lora import add_lora, lora_state_dict

    config = PRESETS["toy"]
    model = DuplexLM(config)
    add_lora(model, 4, 1.0)
    assert adapter_parameters(config, 4) == sum(t.numel() for t in lora_state_dict(model).values())


def test_the_depth_transformer_alone_costs_one_pass_of_the_rest():
    config = PRESETS["toy"]
    recipe = PlannedRecipe(config)
    every, alone = (plan(dataclasses.replace(recipe, start=start), 1, "H100", 0.4)
                    for start in (recipe.start, StartSettings(folder="", depth_only=True)))
    assert alone.trained == every.depth < every.trained and alone.optimizer_gb < every.optimizer_gb
    assert every.flops_per_step / 3 < alone.flops_per_step < every.flops_per_step


def test_sharding_divides_the_memory_and_a_small_gpu_does_not_do(capsys):
    recipe = load_toml(PlannedRecipe, RECIPES / "moshi-4-duplex.toml", {"start.needed": False, "machine.nodes": 1})
    eight, sixteen = plan(recipe, 8, "H100", 0.4), plan(recipe, 16, "H100", 0.4)
    assert eight.optimizer_gb == pytest.approx(2 * sixteen.optimizer_gb, rel=0.01)
    assert eight.seconds_per_step == pytest.approx(2 * sixteen.seconds_per_step, rel=0.01)
    assert main([str(RECIPES / "moshi-4-duplex.toml"), "--cluster", "1x4090"]) == 1
    assert "does NOT fit" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["8", "8xZ80", "0xH100", "xH100"])
def test_a_wrong_cluster_is_named(text, capsys):
    assert main([str(RECIPES / "moshi-lora.toml"), "--cluster", text]) == 2
    assert "COUNTxGPU" in capsys.readouterr().err
    assert cluster("8xH100") == (8, "H100") and "H100" in GPUS
