"""The profile: every operator in one group, the groups add up to the time, and each of its three forms runs."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from benchmarks import profile
from duplex.fast.lm import PARTS, NativeEngine
from duplex.testing import fake_loaded_model

native = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="the native kernels need a C++ compiler (Debian: g++)")


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def event(name, above=None, number=-1):
    return SimpleNamespace(name=name, cpu_parent=above, sequence_nr=number)


@pytest.mark.parametrize(("name", "group"), [
    ("addmm", "products"), ("bmm", "products"), ("slow_conv_transpose2d", "products"), ("mkldnn_convolution", "products"),
    ("_scaled_dot_product_flash_attention_for_cpu", "attention"), ("index_select", "memory"), ("_to_copy", "memory"),
    ("embedding_dense_backward", "memory"), ("fill_", "memory"), ("mul", "elementwise"), ("_log_softmax", "elementwise")])
def test_operators_belong_to_groups(name, group):
    assert profile.group_of(event(f"aten::{name}")) == group


def test_what_attention_calls_is_attention_and_what_is_no_operator_is_overhead():
    outer = event("aten::scaled_dot_product_attention")
    assert profile.group_of(event("aten::bmm", event("aten::matmul", outer))) == "attention"
    assert profile.group_of(event("autograd::engine::evaluate_function: MmBackward0")) is None
    behind = event("aten::bmm", event("autograd::engine::evaluate_function: BmmBackward0", number=7))
    assert profile.group_of(behind) == "products" and profile.group_of(behind, {7}) == "attention"


def test_the_groups_of_a_call_add_up_and_a_large_product_is_most_of_it():
    a = torch.randn(1000, 1000)
    line = profile.of_operators(lambda: (a @ a).add_(1), 5, torch.device("cpu"))
    assert sum(line[f"{name}_ms"] for name in profile.GROUPS) == pytest.approx(line["total_ms"], abs=0.01)
    assert line["products_ms"] > 3 * line["elementwise_ms"] and line["operators"] >= 2


@native
def test_the_native_step_counts_its_own_time_without_changing_its_tokens():
    model = fake_loaded_model()
    user = torch.zeros(2, model.codec.n_codebooks, dtype=torch.long)
    plain, counted = NativeEngine(model.lm), NativeEngine(model.lm)
    counted.spent_ns = torch.zeros(len(PARTS), dtype=torch.int64)
    a, b = plain.init_state(2), counted.init_state(2)
    for _ in range(4):
        (a, x), (b, y) = plain.step(a, user), counted.step(b, user)
        assert torch.equal(x.tokens, y.tokens) and torch.equal(x.text_logits, y.text_logits)
    assert (counted.spent_ns > 0).all()


@native
def test_a_frame_beside_the_reference(tmp_path, capsys):
    out = tmp_path / "profile.json"
    argv = f"--model random --backend native naive --rows 2 --reference moshi --rounds 1 --json {out}".split()
    assert profile.main(argv) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads(out.read_text()) == result and result["benchmark"] == "profile"
    ways = {line["way"]: line for line in result["lines"]}
    assert list(ways) == ["native", "LMGen.step", "naive"] and {line["rows"] for line in ways.values()} == {2}
    for line in ways.values():
        assert sum(line[f"{name}_ms"] for name in profile.GROUPS) == pytest.approx(line["total_ms"], abs=0.01)
        assert line["products_ms"] > 0 and line["attention_ms"] > 0
    assert ways["native"]["weights_gb_s"] > 0 and ways["LMGen.step"]["operators"] > ways["naive"]["operators"] > 100


def test_a_training_pass_beside_the_reference(capsys):
    assert profile.main("--model random --training --frames 6 --rounds 1".split()) == 0
    lines = json.loads(capsys.readouterr().out.splitlines()[-1])["lines"]
    assert [line["way"] for line in lines] == ["reference", "ours", "quarter"]
    assert all(line["products_ms"] > 0 and line["memory_ms"] > 0 and line["attention_ms"] > 0 for line in lines)
    assert profile.main("--model tiny --training".split()) == 2 and "untrained shape" in capsys.readouterr().err


def test_a_start_by_package(monkeypatch, capsys):
    times = [("torch.nn", 900), ("torch", 1_000_000), ("benchmarks.cost", 50), ("duplex.session", 10), ("moshi.models", 2_000)]
    said = "".join(f"import time: {us:9} | {us:9} |   {name}\n" for name, us in times)
    done = SimpleNamespace(returncode=0, stdout="1.5 0.5 0.1 1e10 2.0", stderr=said)
    monkeypatch.setattr(profile.subprocess, "run", lambda *_, **__: done)
    start = profile.start("tiny", "native", 1)
    assert start["packages"][0] == {"package": "torch", "modules": 2, "import_s": 1.001, "loading_s": 0.0}
    assert start["packages"][1] == {"package": "moshi", "modules": 1, "import_s": 0.0, "loading_s": 0.002}
    assert (start["imports_s"], start["model_s"], start["imports_while_loading_s"]) == (1.5, 0.5, 0.002)
    failed = SimpleNamespace(returncode=1, stdout="", stderr="ImportError: nothing")
    monkeypatch.setattr(profile.subprocess, "run", lambda *_, **__: failed)
    assert profile.main(["--start"]) == 2 and "ImportError" in capsys.readouterr().err
