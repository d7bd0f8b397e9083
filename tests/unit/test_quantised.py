"""The accuracy benchmark of rounded weights: exact where nothing is rounded, and the kernels' own weights where it is."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch

from benchmarks import library, quantised
from duplex.engine import Engine
from duplex.fast.lm import NativeEngine
from duplex.testing import fake_loaded_model

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="the native kernels need a C++ compiler (Debian: g++)")


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_copy_computes_what_the_kernels_do():
    model = fake_loaded_model()
    codes = torch.zeros(1, model.codec.n_codebooks, dtype=torch.long)
    for scheme in ("int8", "int4"):
        kernels, copy = NativeEngine(model.lm, None, scheme), Engine(quantised.rounded(model.lm, scheme))
        _, a = kernels.step(kernels.init_state(), codes)
        _, b = copy.step(copy.init_state(), codes)
        assert torch.allclose(a.text_logits, b.text_logits, atol=1e-4)
        plain = Engine(model.lm)
        assert not torch.allclose(a.text_logits, plain.step(plain.init_state(), codes)[1].text_logits, atol=1e-4)


def test_likelihoods_fall_with_the_bits():
    model = fake_loaded_model()
    codes = torch.stack([quantised.conversation(model, 60, seed) for seed in range(2)])
    assert codes.shape == (2, model.config.num_rows, 60)
    rows = quantised.compare(model.lm, codes, ["f32", "int8", "int4"])
    assert rows["f32"] == rows["exact"] and rows["exact"]["text_agreement"] == 1.0
    assert abs(rows["int8"]["audio_excess"]) < 0.01
    assert rows["int4"]["audio_agreement"] < rows["int8"]["audio_agreement"] <= 1.0


def test_the_command_writes_its_result(tmp_path, capsys, saved):
    out = tmp_path / "q.json"
    assert quantised.main(f"--model {saved} --frames 12 --seeds 1 --json {out}".split()) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads(out.read_text()) == result and set(result["schemes"]) == {"exact", "int8", "int4"}
    assert quantised.main(["--device", "meta"]) == 2
    assert "use cpu" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["f32", "int8", "int4"])
def test_the_library_computes_with_the_weights_of_the_kernels(scheme):
    pytest.importorskip("onnxruntime")
    lm = fake_loaded_model().lm
    theirs, twin = library.Products(lm, f"ort-{scheme}").weights(), dict(library.frame_linears(quantised.rounded(lm, scheme)))
    assert theirs.keys() == twin.keys() and len(theirs) > 8
    for name, weight in theirs.items():
        assert torch.allclose(weight, twin[name].weight, atol=1e-6), name


def test_frames_are_timed_beside_the_library():
    pytest.importorskip("onnxruntime")
    times = quantised.frame_times(fake_loaded_model(), ["int8"], 2)
    assert times.keys() - {"torchao-int8"} == {"exact", "int8", *library.KERNELS} and min(times.values()) > 0


def test_torchao_rounds_each_output_to_eight_bits():
    pytest.importorskip("torchao.quantization", exc_type=ImportError)
    lm = fake_loaded_model().lm
    theirs, exact = library.Torchao(lm), dict(library.frame_linears(lm))
    theirs.frame()
    weights = theirs.weights()
    assert weights.keys() == exact.keys()
    for name, weight_OI in weights.items():
        w = exact[name].weight.detach()
        step_O1 = w.abs().amax(1, keepdim=True) / 127
        assert ((weight_OI - w).abs() <= 0.51 * step_O1 + 1e-6).all() and not torch.equal(weight_OI, w), name


def test_a_library_that_is_missing_is_left_out_with_a_line(monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    times = quantised.frame_times(fake_loaded_model(), [], 1)
    assert "torchao-int8" not in times
    assert capsys.readouterr().err.startswith("torchao-int8: left out, ")
