"""The fast engines against the plain one: the same tokens for every option that a model may have, over hundreds of frames.

Three rows that are reset and paused at different times, well past the context, greedy and sampled. Logits must agree to rounding.
"""

import dataclasses
import shutil

import pytest
import torch
from test_lm_parity import CONFIGS, build, scenario

from duplex.config import SamplingConfig
from duplex.engine import Engine, StreamState
from duplex.errors import ConfigError, InputError
from duplex.fast.lm import NativeEngine, PackedLM
from duplex.fast.packing import Matrix, exact_format

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="the native kernels need a C++ compiler (Debian: g++)")
COURSE = 120
SAMPLED = SamplingConfig(audio_top_k=20, repetition_window=6, repetition_penalty=1.5, patience=4.0)
LONG = ("moshi-7b", "personaplex-7b")


def live(engine, codes, resets, active, rows=slice(None), **options):
    """Tokens [B, 1 + Q, T], the logits of active rows, and the last state, of some rows of a scenario."""
    B = len(active[rows])
    state, tokens, logits = engine.init_state(B, list(range(7, 10))[rows]), [], []
    for t in range(active.shape[1]):
        if t in resets:
            state.reset_rows(resets[t][rows])
        state, out = engine.step(state, None if codes is None else codes[rows, :, t], active=active[rows, t], **options)
        tokens.append(out.tokens)
        logits.append(out.text_logits[active[rows, t]])
        logits += [head[active[rows, t]] for head in out.extra]
    return torch.stack(tokens, -1), logits, state


def largest(first, second):
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True) if a.numel())


COURSES = [(name, SamplingConfig(greedy=True)) for name in CONFIGS] + [
    (name, SAMPLED) for name in ("moshi-7b", "other-norms", "one-voice", "listener")]


@pytest.mark.parametrize("name, sampling", COURSES, ids=[f"{n}-{'greedy' if s.greedy else 'sampled'}" for n, s in COURSES])
@torch.inference_mode()
def test_native_gives_the_tokens_of_the_plain_engine(name, sampling, monkeypatch, report):
    frames, context = (400, 150) if name in LONG and sampling.greedy else (COURSE, 50)
    monkeypatch.setitem(CONFIGS, name, dataclasses.replace(CONFIGS[name], context=context))
    for seed in range(3):  # where two logits agree to seven digits rounding decides, but not with three sets of weights
        model, _ = build(name, seed)
        course = scenario(model.config, frames)
        theirs, their_logits, their_state = live(Engine(model, sampling), *course)
        ours, our_logits, our_state = live(NativeEngine(model, sampling), *course)
        if torch.equal(ours, theirs):
            break
    assert torch.equal(ours, theirs)
    difference = largest(our_logits, their_logits)
    report("largest logit difference, native", difference)
    assert difference < 1e-4
    assert all(len(row.unique()) > 10 for row in theirs[0])
    mine, other = our_state.to_dict(), their_state.to_dict()
    assert all(torch.equal(mine[key], other[key]) for key in mine if key not in ("kv", "onset"))
    assert torch.allclose(mine["onset"], other["onset"], atol=1e-5)
    assert (mine["kv"] - other["kv"]).abs().max() < 1e-4


@torch.inference_mode()
def test_a_row_is_the_same_bit_for_bit_whatever_stands_beside_it():
    model, _ = build("moshi-7b")
    course = scenario(model.config, 40)
    for scheme in ("exact", "int8", "int4"):
        engine = NativeEngine(model, SAMPLED, scheme)
        together, _, state = live(engine, *course)
        for row in range(3):
            alone, _, single = live(engine, *course, rows=slice(row, row + 1))
            assert torch.equal(alone[0], together[row])
            assert torch.equal(single.kv.store_LBGCE[:, 0], state.kv.store_LBGCE[:, row])


@torch.inference_mode()
def test_states_pass_from_one_engine_to_the_other():
    model, _ = build("two-depth-widths")
    codes, _, _ = scenario(model.config, 60)
    plain, native = Engine(model, SAMPLED), NativeEngine(model, SAMPLED)
    alone, mixed = plain.init_state(3, 4), native.init_state(3, 4)
    for t in range(60):
        alone, expected = plain.step(alone, codes[:, :, t])
        kept = mixed.clone()
        mixed, out = (native if t % 3 else plain).step(mixed, codes[:, :, t])
        assert torch.equal(out.tokens, expected.tokens)
        if t == 40:  # a stored state goes on as if nothing had happened
            again, repeated = native.step(StreamState.from_dict(kept.to_dict()), codes[:, :, t])
            assert torch.equal(repeated.tokens, out.tokens)


@torch.inference_mode()
def test_forced_text_and_codes_bias_and_temperatures_mean_the_same():
    model, _ = build("personaplex-7b")
    config, layout = model.config, model.layout
    codes, _, _ = scenario(config, 50)
    codes = torch.randint(0, config.card, (3, layout.n_user, 50)) if codes is None else codes
    bias = torch.randn(3, len(model.text_linear.weight))
    heat = torch.tensor([[0.0, 0.0], [0.9, 0.0], [0.4, 1.1]])
    states = [engine.init_state(3, 9) for engine in (Engine(model), NativeEngine(model))]
    for t in range(50):
        text = torch.tensor([5, -1, 3]) if t % 3 else None
        system = None if t < 20 else torch.randint(-1, config.card, (3, layout.n_system))
        system = torch.randint(0, config.card, (3, layout.n_system)) if t > 40 else system
        seen = []
        for number, engine in enumerate((Engine(model), NativeEngine(model))):
            states[number], out = engine.step(states[number], codes[:, : layout.n_user, t], forced_text=text,
                                              forced_system=system, text_bias=bias, temperatures=heat)
            seen.append(out)
        assert torch.equal(seen[0].tokens, seen[1].tokens) and torch.equal(seen[0].text_now, seen[1].text_now)
        assert torch.equal(seen[0].ready, seen[1].ready)


def test_wrong_input_is_refused_before_anything_changes():
    model, _ = build("moshi-7b")
    engine = NativeEngine(model)
    state = engine.init_state(2)
    before = state.clone()
    for bad in (torch.zeros(1, 8, dtype=torch.long), torch.full((2, 8), 40), torch.zeros(2, 8)):
        with pytest.raises(InputError, match="user_codes"):
            engine.step(state, bad)
    with pytest.raises(InputError, match="does not predict"):
        engine.step(state, None)
    assert all(torch.equal(tensor, before.to_dict()[name]) for name, tensor in state.to_dict().items())
    with pytest.raises(ConfigError, match="scheme 'int3'"):
        PackedLM(model, "int3")
    with pytest.raises(ConfigError, match="bfloat16 on cpu"):
        NativeEngine(model.bfloat16())


def test_changed_weights_are_packed_anew():
    model, _ = build("moshi-7b")
    engine, codes = NativeEngine(model), torch.zeros(1, 8, dtype=torch.long)
    _, before = engine.step(engine.init_state(), codes)
    assert NativeEngine(model).weights is engine.weights
    with torch.no_grad():
        model.text_linear.weight.mul_(2)
    engine = NativeEngine(model)
    _, after = engine.step(engine.init_state(), codes)
    assert torch.allclose(after.text_logits, 2 * before.text_logits, atol=1e-5)


@pytest.mark.parametrize("outputs, inputs", [(1, 1), (31, 5), (64, 64), (97, 130), (300, 192)])
def test_products_are_those_of_the_rounded_weights(outputs, inputs):
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs)
    bits = {"f32": 0.0, "f16": 6e-4, "bf16": 5e-3, "int8": 5e-3, "int4": 0.1}
    for rows in (1, 2, 3, 4, 5, 7, 8, 9, 23):
        x = torch.randn(rows, inputs)
        expected = x.double() @ weight.double().T
        for scheme, loss in bits.items():
            error = (Matrix(weight, scheme).multiply(x) - expected).norm() / expected.norm()
            assert error <= 2 * loss + 1e-6, (scheme, rows)


def test_sixteen_bits_are_taken_only_where_they_hold_every_value():
    weight = torch.randn(40, 64)
    assert exact_format(weight) == "f32"
    assert exact_format(weight.half().float()) == "f16"
    assert exact_format(weight.bfloat16().float() * 2.0**100) == "bf16"
    for dtype in (torch.float16, torch.bfloat16):
        stored = weight.to(dtype).float()
        x = torch.randn(3, 64)
        assert torch.equal(Matrix(stored).multiply(x), Matrix(stored, "f32").multiply(x))
