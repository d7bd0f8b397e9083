"""What a program imports until its first frame; a compiler that nobody uses would double the time."""

from __future__ import annotations

import subprocess
import sys

import torch

from duplex.config import PRESETS
from duplex.filling import no_memory
from duplex.model.lm import DuplexLM
from duplex.weights import empty_lm

_LOAD = """
import sys
from duplex.checkpoint import load_model
from duplex.session import Session
Session(load_model("tiny"))
print(sorted({"torch._dynamo", "torch._inductor", "sympy", "torchaudio", "scipy", "lightning"} & set(sys.modules)))
"""


def test_loading_a_model_imports_no_compiler():
    done = subprocess.run([sys.executable, "-c", _LOAD], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_an_empty_model_has_the_shapes_of_a_full_one():
    config = PRESETS["toy"]
    full, empty = DuplexLM(config).state_dict(), empty_lm(config, "here").state_dict()
    assert {name: (t.shape, t.dtype) for name, t in full.items()} == {name: (t.shape, t.dtype) for name, t in empty.items()}
    assert all(t.is_meta for t in empty.values())


def test_tensors_with_memory_are_still_initialised():
    with no_memory():
        weight = torch.empty(4, device="cpu")
        torch.nn.init.constant_(weight, 3.0)
        weight.mul_(2)
    assert weight.tolist() == [6.0] * 4
