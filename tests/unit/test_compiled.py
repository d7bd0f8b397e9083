"""The compiled backend, really compiled: the plain engine's tokens, and a second start that compiles nothing."""

from __future__ import annotations

import pytest
import torch

from duplex.config import SamplingConfig
from duplex.engine import Engine
from duplex.fast import build, compiled
from duplex.fast.backends import make_engine
from duplex.testing import fake_loaded_model, tiny_lm_config

SHAPE = tiny_lm_config(2, 16, n_q=2, dep_q=1, delays=(0, 0, 1), dim=16, num_heads=1, num_layers=1, context=8,
                       depformer_num_heads=1)
"""One layer and one position of each transformer: what takes long is the compiler's start, not the model."""


def lived(engine):
    """Tokens [1, 1 + Q, T] of 24 frames, three times the context."""
    generator, state, tokens = torch.Generator().manual_seed(2), engine.init_state(), []
    for codes in torch.randint(SHAPE.card, (24, 1, 1), generator=generator):
        state, out = engine.step(state, codes)
        tokens.append(out.tokens)
    return torch.stack(tokens, -1)


@pytest.mark.slow
@pytest.mark.skipif(build.compiler() is None, reason="compiling needs a C++ compiler (Debian: g++)")
def test_a_compiled_frame_gives_the_same_tokens_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DUPLEX_CACHE", str(tmp_path / "kept"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    sampling, models = SamplingConfig(greedy=True), [fake_loaded_model(seed, SHAPE).lm for seed in range(2)]
    first = make_engine(models[0], sampling, "compiled")
    assert torch.equal(lived(first), lived(Engine(models[0], sampling)))
    (package,) = (tmp_path / "kept").iterdir()
    assert package.suffix == ".pt2"

    def refused(*_):
        raise AssertionError("compiled a second time")

    monkeypatch.setattr(compiled, "_compile", refused)
    # Another model of that shape: the package holds no weights.
    second = make_engine(models[1], sampling, "compiled")
    assert torch.equal(lived(second), lived(Engine(models[1], sampling)))
    assert not torch.equal(lived(first), lived(second))
