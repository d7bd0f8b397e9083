"""The frame as a fixed program, and as a recording that is replayed: the plain engine's tokens, for every option."""

import dataclasses
import gc

import pytest
import torch
from test_fast_lm import SAMPLED, largest, live
from test_lm_parity import CONFIGS, build, scenario

from duplex.config import SamplingConfig
from duplex.engine import Engine
from duplex.errors import ConfigError, InputError
from duplex.fast import compiled
from duplex.fast.compiled import CompiledEngine, ProgramEngine
from duplex.fast.graph import GraphEngine, plain_recorder


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_the_program_gives_the_tokens_of_the_plain_engine(name, monkeypatch):
    monkeypatch.setitem(CONFIGS, name, dataclasses.replace(CONFIGS[name], context=20))
    for sampling in (SamplingConfig(greedy=True), SAMPLED):
        for seed in range(3):
            model, _ = build(name, seed)
            course = scenario(model.config, 30)
            theirs, their_logits, their_state = live(Engine(model, sampling), *course)
            ours, our_logits, our_state = live(ProgramEngine(model, sampling), *course)
            if torch.equal(ours, theirs):
                break
        assert torch.equal(ours, theirs)
        assert largest(our_logits, their_logits) < 1e-4
        assert (our_state.kv.store_LBGCE - their_state.kv.store_LBGCE).abs().max() < 1e-4


@torch.no_grad()
def test_a_replayed_recording_gives_the_same_and_goes_with_its_state():
    model, _ = build("moshi-7b")
    course = scenario(model.config, 60)
    expected, _, _ = live(Engine(model, SAMPLED), *course)
    engine = GraphEngine(model, SAMPLED, plain_recorder)
    got, _, state = live(engine, *course)
    assert torch.equal(got, expected)
    codes = course[0][:, :, 0]
    twin = state.clone()
    plain_state = state.clone()
    for _ in range(4):  # the copy gets a recording of its own after its first steps
        twin, a = engine.step(twin, codes)
        plain_state, b = Engine(model, SAMPLED).step(plain_state, codes)
        assert torch.equal(a.tokens, b.tokens)
    assert not torch.equal(twin.frames_B, state.frames_B)
    with pytest.raises(InputError, match="outside the vocabulary"):
        engine.step(twin, codes + 1000)
    del twin, state
    gc.collect()
    assert len(engine._states) == 0


def test_outputs_of_a_recording_are_not_overwritten_by_the_next_step():
    model, _ = build("moshi-7b")
    engine, codes = GraphEngine(model, SAMPLED, plain_recorder), torch.zeros(1, 8, dtype=torch.long)
    state = engine.init_state()
    outs = [engine.step(state, codes)[1] for _ in range(12)]
    assert len({tuple(out.tokens[0].tolist()) for out in outs}) > 5


def test_a_frame_is_not_compiled_without_a_compiler(monkeypatch):
    monkeypatch.setattr(compiled, "compiler", lambda: None)
    model, _ = build("moshi-7b")
    engine = CompiledEngine(model)
    with pytest.raises(ConfigError, match="install g\\+\\+"):
        engine.step(engine.init_state(), torch.zeros(1, 8, dtype=torch.long))
    with pytest.raises(ConfigError, match="load it on cuda"):
        GraphEngine(model)
