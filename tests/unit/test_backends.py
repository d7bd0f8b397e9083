"""Choosing a backend: by name, aloud, and with the same session whatever computes it."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
import torch

from duplex.checkpoint import load_model
from duplex.engine import Engine
from duplex.errors import ConfigError
from duplex.fast import build
from duplex.fast.backends import BACKENDS, choose, make_engine, with_backend
from duplex.fast.codec import NativeCodec
from duplex.fast.lm import NativeEngine
from duplex.session import Session
from duplex.testing import fake_loaded_model, scripted_speech
from duplex.units import FRAME_SAMPLES

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="the native kernels need a C++ compiler (Debian: g++)")


@needs_compiler
def test_a_session_of_the_embedded_model_is_the_same_on_native_kernels():
    user = scripted_speech([(0.4, 2.5), (4.0, 5.0)], 6.0).reshape(-1, FRAME_SAMPLES)
    plain, native = load_model("tiny"), load_model("tiny", backend="native")
    assert (plain.backend, native.backend) == ("naive", "native")
    assert isinstance(native.codec, NativeCodec) and isinstance(native.engine(), NativeEngine)
    sessions = [Session(model, seed=3) for model in (plain, native)]
    for pcm in user:
        a, b = (session.step(pcm) for session in sessions)
        assert (a.text_token, a.text_ahead, a.events) == (b.text_token, b.text_ahead, b.events)
        assert np.array_equal(a.system_codes, b.system_codes) and np.array_equal(a.user_codes, b.user_codes)
        assert np.abs(a.pcm - b.pcm).max() < 1e-4


@needs_compiler
def test_a_native_session_is_stored_and_taken_up_again(tmp_path):
    model = load_model("tiny", backend="native")
    user = scripted_speech([(0.1, 1.0)], 2.0).reshape(-1, FRAME_SAMPLES)
    session = Session(model, seed=1)
    for pcm in user[:10]:
        session.step(pcm)
    session.save(tmp_path / "here.safetensors")
    again = Session.load(model, tmp_path / "here.safetensors")
    for pcm in user[10:]:
        assert np.array_equal(session.step(pcm).pcm, again.step(pcm).pcm)


@needs_compiler
def test_rounded_weights_speak_another_way_but_speak():
    model = fake_loaded_model()
    engines = {name: with_backend(model, name).engine() for name in BACKENDS if name.startswith("native")}
    codes, logits = torch.zeros(1, model.codec.n_codebooks, dtype=torch.long), {}
    for name, engine in engines.items():
        _, out = engine.step(engine.init_state(), codes)
        logits[name] = out.text_logits
    exact = logits["native"]
    error = {name: ((value - exact).norm() / exact.norm()).item() for name, value in logits.items()}
    assert error["native"] == 0 < error["native-int8"] < 0.02 < error["native-int4"] < 0.4


def test_an_unknown_name_is_refused():
    model = fake_loaded_model()
    with pytest.raises(ConfigError, match="unknown name 'warp'; use auto, naive, "):
        with_backend(model, "warp")
    with pytest.raises(ConfigError, match="the model is on cpu; load it on cuda"):
        with_backend(model, "graph")
    with pytest.raises(ConfigError, match="unknown name"):
        make_engine(model.lm, backend="")
    assert with_backend(model, "naive") is model


def test_without_a_compiler_auto_says_so_and_native_refuses(monkeypatch, caplog):
    monkeypatch.setattr(build, "compiler", lambda: None)
    build.library.cache_clear()
    model = fake_loaded_model()
    with caplog.at_level(logging.INFO):
        assert choose("auto", model.lm) == "naive"
    assert "no C++ compiler" in caplog.text
    assert type(make_engine(model.lm, backend="auto")) is Engine
    with pytest.raises(ConfigError, match="install g\\+\\+ or choose the backend"):
        with_backend(model, "native")
    build.library.cache_clear()


def test_auto_keeps_half_precision_on_the_plain_engine(caplog):
    model = fake_loaded_model()
    model.lm.bfloat16()
    with caplog.at_level(logging.INFO):
        assert choose("auto", model.lm) == "naive"
    assert "bfloat16" in caplog.text


@needs_compiler
def test_the_library_is_built_once_and_named_after_what_it_is_made_of(tmp_path, monkeypatch):
    built = build.library_path()
    monkeypatch.setenv("DUPLEX_CACHE", str(tmp_path / "kept"))
    moved = build.library_path()
    assert moved.parent == tmp_path / "kept" and moved.name == built.name
    moved.parent.mkdir()
    moved.write_bytes(b"there already")
    assert build.build() == moved and moved.read_bytes() == b"there already"
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-DX"))
    assert build.library_path().name != built.name
    monkeypatch.setattr(build, "_FLAGS", ("-no-such-option",))
    with pytest.raises(ConfigError, match="no-such-option"):
        build.build()
    assert [path.name for path in moved.parent.iterdir()] == [moved.name]  # nothing half-built is left
