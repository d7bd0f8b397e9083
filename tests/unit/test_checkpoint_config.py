"""Configurations that are damaged, do not fit, or point out of their folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_folders import MIMI, edit_config, refused, train_tokenizer
from safetensors.torch import save_file

from duplex.checkpoint import load_model
from duplex.codec import MimiCodec, MimiConfig, build_mimi
from duplex.errors import DuplexError


@pytest.mark.parametrize("content, word", [
    ("", "not valid JSON"), ("{", "not valid JSON"), ("[]", "not a JSON object"), ("3", "not a JSON object"),
    ("[" * 100_000, "not valid JSON"), ('{"dim": 32}', "config.json: missing"),
    ('"\\ud800"', "not a JSON object"),
])
def test_config_that_is_none(folder: Path, content: str, word: str):
    (folder / "config.json").write_text(content)
    refused(lambda: load_model(folder), "config.json", word)
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    refused(lambda: load_model(folder), "config.json")


@pytest.mark.parametrize("changes, words", [
    ({"num_layer": 2}, ("'num_layer'", "did you mean 'num_layers'")),
    ({"tokeniser_name": "x"}, ("'tokeniser_name'", "did you mean 'tokenizer_name'")),
    ({"preset": []}, ("preset",)),
    ({"lm_gen_config": {"temp": "hot"}}, ("lm_gen_config", "temp")),
    ({"dim": "32"}, ("dim",)),
    ({"dim": 33}, ("dim",)),
    ({"num_layers": 3}, ("transformer.layers.2",)),
    ({"num_layers": 5_000_000}, ("num_layers", "too few")),
    ({"n_q": 9}, ("delays",)),
    ({"dim": 10**15}, ("dim",)),
    ({"card": 65}, ("card",)),
    ({"quantize": True}, ("quantize",)),
    ({"conditioners": {"speaker": {"type": "tensor"}}, "fuser": {"cross": ["speaker"]}}, ("speaker",)),
    ({"conditioners": 3}, ("conditioners",)),
    ({"conditioners": {"x": {"type": "lut", "lut": {"n_bins": -1}}}, "fuser": {"sum": ["x"]}}, ("n_bins",)),
    ({"conditioners": {"x": {"type": "lut", "lut": {"n_bins": 2, "dim": 4, "possible_values": ["a"]}}},
      "fuser": {"sum": ["x"]}}, ("condition_provider",)),
    ({"mimi_config_name": None, "mimi_config": {"n_filter": 2}}, ("n_filters",)),
    ({"mimi_config_name": None, "mimi_config": []}, ("mimi_config",)),
    ({"mimi_config_name": None}, ("2048",)),
    ({"lora_name": "absent.safetensors"}, ("absent.safetensors",)),
    ({"mimi_name": "absent.safetensors"}, ("absent.safetensors",)),
    ({"tokenizer_name": "config.json"}, ("not a sentencepiece model",)),
    ({"moshi_name": "config.json"}, ("config.json", "not a safetensors")),
    ({"model_type": ["x"]}, ("model_type",)),
    ({"lm_gen_config": 3}, ("lm_gen_config",)),
], ids=str)
def test_settings_that_do_not_fit(folder: Path, changes: dict[str, Any], words: tuple[str, ...]):
    edit_config(folder, **changes)
    refused(lambda: load_model(folder), *words)


@pytest.mark.parametrize("key", [
    "moshi_name", "mimi_name", "tokenizer_name", "lora_name", "mimi_config_name"])
def test_names_that_leave_the_folder(folder: Path, key: str):
    for name in ("../x", "/etc/passwd", "a/../../x", "", ".", "..", "a//b", "C:\\x", "..\\x", "x\0y",
                 "file:///etc/passwd", 3, [], {"a": 1}, True):
        edit_config(folder, **{key: name})
        refused(lambda: load_model(folder), "config.json", key, "inside the folder")


def test_names_in_a_subfolder(folder: Path):
    (folder / "text").mkdir()
    (folder / "tokenizer.model").rename(folder / "text" / "pieces.model")
    edit_config(folder, tokenizer_name="text/pieces.model")
    load_model(folder)


def test_codec_with_too_few_books_and_wrong_structure(folder: Path):
    small = MimiConfig(**MIMI.to_dict() | {"n_codebooks": 3})
    codec = MimiCodec(build_mimi(small), small)
    save_file({name: tensor.contiguous() for name, tensor in codec.mimi.state_dict().items()},
              folder / "mimi.safetensors")
    nested = small.upstream()
    (folder / "mimi_config.json").write_text(json.dumps(nested))
    refused(lambda: load_model(folder), "codebooks")
    for change in ({"sample_rate": 16000}, {"seanet": nested["seanet"] | {"causal": False}}, {"quantizer": 3},
                   {"transformer": {}}, {"seanet": nested["seanet"] | {"ratios": "x"}}):
        (folder / "mimi_config.json").write_text(json.dumps(nested | change))
        refused(lambda: load_model(folder), "mimi_config.json")


def test_tokenizer_of_another_model(folder: Path):
    train_tokenizer(folder / "tokenizer.model", "char")
    refused(lambda: load_model(folder), "text_card", "pieces", "tokenizer of this model")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_of_any_key_loads_or_is_refused(saved: Path, folder: Path, data: st.DataObject):
    config = json.loads((saved / "config.json").read_text())
    known = [*config, "conditioners", "fuser", "mimi_config", "lora_name", "n_user", "lora_scaling", "preset"]
    config[data.draw(st.sampled_from(known))] = data.draw(_JSON)
    (folder / "config.json").write_text(json.dumps(config))
    try:
        load_model(folder).sampling  # noqa: B018
    except DuplexError as error:
        assert "\n" not in str(error)
