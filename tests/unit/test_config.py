"""Model configurations: what published files contain, what fits and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from duplex.config import PRESETS, LMConfig, SamplingConfig, load_toml
from duplex.errors import ConfigError

# A config.json as published with a Moshi 7B, folder keys and obsolete keys included.
PUBLISHED = {
    "dim": 4096, "text_card": 32000, "existing_text_padding_id": 3, "n_q": 16, "dep_q": 8, "card": 2048,
    "num_heads": 32, "num_layers": 32, "hidden_scale": 4.125, "causal": True, "layer_scale": None, "context": 3000,
    "max_period": 10000, "gating": "silu", "norm": "rms_norm_f32", "positional_embedding": "rope",
    "depformer_dim": 1024, "depformer_dim_feedforward": 4224, "depformer_num_heads": 16, "depformer_num_layers": 6,
    "depformer_causal": True, "depformer_layer_scale": None, "depformer_multi_linear": True, "depformer_context": 8,
    "depformer_max_period": 10000, "depformer_gating": "silu", "depformer_pos_emb": "none",
    "depformer_weights_per_step": True, "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
    "moshi_name": "model.safetensors", "mimi_name": "mimi.safetensors", "tokenizer_name": "spm.model",
    "lora_name": None, "model_type": "moshi", "lm_gen_config": {"temp": 0.8}, "model_id": {"sig": "x"},
    "tts_config": {}, "stt_config": {}, "fuser": {"sum": [], "cross": [], "prepend": []}, "conditioners": {},
    "cross_attention": False, "lora": False, "lora_rank": 128, "lora_scaling": 2.0, "demux_second_stream": False,
    "extra_heads_num_heads": 0, "extra_heads_dim": 6, "quantize": False,
}
SMALL = LMConfig(delays=(0,) * 5, dim=16, num_heads=2, num_layers=1, n_q=4, dep_q=2, gating="silu")


def test_a_published_file_is_read_as_it_is():
    assert LMConfig.from_dict(PUBLISHED) == dataclasses.replace(
        PRESETS["moshi-7b"], fuser=PUBLISHED["fuser"], conditioners={})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    text = json.dumps(PRESETS[name].to_dict())
    assert LMConfig.from_dict(json.loads(text)) == PRESETS[name]
    assert LMConfig.from_dict({"preset": name}) == PRESETS[name]


def test_a_file_without_network_keys_means_the_original_release():
    assert LMConfig.from_dict({"model_type": "moshi"}) == PRESETS["moshi-7b"]
    personaplex = LMConfig.from_dict({"model_type": "personaplex", "version": "1"})
    assert personaplex.dep_q == 16 and personaplex.user_rows == 8


def test_depth_settings_follow_the_temporal_ones_unless_given():
    config = dataclasses.replace(SMALL, layer_scale=0.1, depformer_layer_scale="inherit", max_period=50)
    assert config.depformer_layer_scale == 0.1
    assert config.depformer_gating == "silu"
    given = LMConfig.from_dict(config.to_dict() | {"depformer_layer_scale": None})
    assert given.depformer_layer_scale is None and given.layer_scale == 0.1


def test_rows_of_the_user():
    assert PRESETS["moshi-7b"].user_rows == 8
    assert PRESETS["hibiki-2b"].user_rows == 16
    one_voice = dataclasses.replace(SMALL, dep_q=4, delays=(0, 0, 2, 2, 2))
    assert one_voice.user_rows == 0
    two_voices = dataclasses.replace(SMALL, dep_q=4, delays=(0, 0, 2, 0, 2))
    assert two_voices.user_rows == 2
    said = dataclasses.replace(SMALL, dep_q=4, n_user=2)
    assert said.user_rows == 2 and said.to_dict()["n_user"] == 2
    assert "n_user" not in two_voices.to_dict()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depformer_dims": 3}, ["unknown key 'depformer_dims'", "depformer_dim"]),
        ({"dim": 15}, ["dim", "multiple of num_heads=2"]),
        ({"dim": "wide"}, ["dim", "expected int"]),
        ({"dim": 0}, ["dim", "at least 1"]),
        ({"delays": [0, 1]}, ["delays", "needs 5 values"]),
        ({"delays": [0, 0, 0, 0, -1]}, ["delays", "negative"]),
        ({"dep_q": 9}, ["dep_q", "n_q=4"]),
        ({"dep_q": 3, "n_user": 2}, ["n_user", "dep_q must be"]),
        ({"norm": "batch_norm"}, ["norm", "rms_norm_f32"]),
        ({"gating": "swish"}, ["gating", "silu"]),
        ({"positional_embedding": "alibi"}, ["positional_embedding", "rope"]),
        ({"context": 0}, ["context"]),
        ({"kv_repeat": 3}, ["kv_repeat", "divide"]),
        ({"num_heads": 16, "positional_embedding": "rope"}, ["rotary", "even"]),
        ({"existing_text_padding_id": 32000}, ["existing_text_padding_id", "text_card=32000"]),
        ({"depformer_weights_per_step_schedule": [0, 1]}, ["needs depformer_weights_per_step"]),
        ({"depformer_weights_per_step": True, "depformer_weights_per_step_schedule": [0]}, ["needs dep_q=2 numbers"]),
        ({"depformer_weights_per_step": True, "depformer_dim_feedforward": [1, 2, 3]}, ["one per weight set"]),
        ({"depformer_weights_per_step": True, "depformer_gating": "none"}, ["gated feed-forward"]),
        ({"causal": False}, ["causal"]),
        ({"quantize": True}, ["quantize", "bf16"]),
        ({"cross_attention": True}, ["cross_attention", "not supported"]),
        ({"conditioners": {"description": {"type": "lut"}}}, ["conditioners", "not supported"]),
        ({"preset": "moshi-70b"}, ["unknown preset", "moshi-7b"]),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, words):
    with pytest.raises(ConfigError) as caught:
        LMConfig.from_dict(SMALL.to_dict() | change, "folder/config.json")
    message = str(caught.value)
    assert message.startswith("folder/config.json: ") and "\n" not in message
    for word in words:
        assert word in message


def test_files(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(ConfigError, match="config.json: cannot be read"):
        LMConfig.from_json(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="config.json: not valid JSON"):
        LMConfig.from_json(path)
    path.write_text(json.dumps(SMALL.to_dict()))
    assert LMConfig.from_json(path) == SMALL
    toml = tmp_path / "model.toml"
    toml.write_text('preset = "toy"\nnum_layers = 2\n')
    assert load_toml(LMConfig, toml, ["dim=96"]) == dataclasses.replace(PRESETS["toy"], num_layers=2, dim=96)


@pytest.mark.parametrize(
    "change",
    [{"audio_temperature": -1.0}, {"text_temperature": float("nan")}, {"text_top_k": -1}, {"repetition_penalty": 0.5},
     {"patience": -1.0},
     {"repetition_window": -2}, {"audio_temperature": float("inf")}],
)
def test_sampling_settings_that_make_no_sense(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        SamplingConfig(**change)
