"""Streaming generation: what comes out when, and a state that is a value."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from duplex.config import PRESETS, SamplingConfig
from duplex.engine import Engine, StreamState
from duplex.errors import InputError
from duplex.model.lm import DuplexLM

CONFIG = dataclasses.replace(
    PRESETS["toy"], dim=32, num_heads=4, num_layers=2, card=20, text_card=30, context=9, depformer_dim=16,
    depformer_num_heads=2, depformer_num_layers=1, depformer_dim_feedforward=32, n_q=5, dep_q=3,
    delays=(0, 0, 2, 2, 0, 2))
DUET = dataclasses.replace(CONFIG, n_q=4, dep_q=4, delays=(0, 0, 1, 0, 1))
STEPS = 30


def make(config=CONFIG, **sampling) -> Engine:
    torch.manual_seed(0)
    model = DuplexLM(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "emb" in name:
                p.mul_(3)
    return Engine(model, SamplingConfig(**sampling))


def talk(engine, state, user, **options):
    """Steps through user codes [B, n_user, T]; returns the state and the outputs."""
    outs = []
    for t in range(user.shape[2]):
        state, out = engine.step(state, user[..., t], **options)
        outs.append(out)
    return state, outs


def same(a: StreamState, b: StreamState) -> bool:
    return all(torch.equal(x, b.to_dict()[name]) for name, x in a.to_dict().items())


def user_codes(batch=1, steps=STEPS, config=CONFIG):
    return torch.randint(0, config.card, (batch, config.user_rows, steps))


def test_what_comes_out_is_what_the_parallel_pass_would_choose():
    engine, user = make(greedy=True), user_codes(2)
    _, outs = talk(engine, engine.init_state(2), user)
    delay, system = CONFIG.max_delay, slice(1, 1 + CONFIG.dep_q)
    assert [bool(out.ready.all()) for out in outs] == [t >= delay for t in range(STEPS)]
    assert all((out.tokens == -2).all() for out in outs[:delay])
    # The codes of a conversation: frame t leaves at step t + delay, and what is heard at step t + 1 ends frame t.
    spoken = torch.stack([out.tokens for out in outs[delay:]], -1)
    codes = torch.cat([spoken, user[..., 1 : STEPS - delay + 1]], 1)
    assert torch.equal(codes[:, 0], torch.stack([out.text_now for out in outs], -1)[:, : STEPS - delay])
    with torch.no_grad():
        parallel = engine.model(codes)
    streamed = torch.stack([out.text_logits for out in outs], 1)[:, : STEPS - delay]
    assert (streamed - parallel.text_logits[:, 0]).abs().max() < 1e-4
    assert torch.equal(parallel.text_logits[:, 0].argmax(-1), codes[:, 0])
    chosen = parallel.logits.nan_to_num().argmax(-1)
    assert torch.equal(chosen[parallel.mask], codes[:, system][parallel.mask])
    assert len(codes[:, 0].unique()) > 5 and len(codes[:, 2].unique()) > 5


def test_rows_reset_and_paused_at_different_times_are_fresh_single_runs():
    engine, user = make(), user_codes(3)
    gate = torch.rand(3, STEPS) < torch.tensor([[1.0], [0.6], [0.8]])
    state, got, fed = engine.init_state(3, [5, 6, 7]), [[] for _ in range(3)], [[] for _ in range(3)]
    for t in range(STEPS):
        if t == 17:
            state.reset_rows(torch.tensor([False, True, False]), [0, 99, 0])
            got[1], fed[1] = [], []
        state, out = engine.step(state, user[..., t], active=gate[:, t])
        for b in range(3):
            if gate[b, t]:
                fed[b].append(user[b, :, t])
                if out.ready[b]:
                    got[b].append(out.tokens[b])
            else:
                assert not out.ready[b] and (out.tokens[b] == -2).all()
    for b, seed in enumerate((5, 99, 7)):
        _, outs = talk(engine, engine.init_state(1, [seed]), torch.stack(fed[b], -1)[None])
        alone = [out.tokens[0] for out in outs if out.ready[0]]
        assert len(alone) > 3 and torch.equal(torch.stack(alone), torch.stack(got[b]))


def test_an_inactive_row_is_left_bit_for_bit():
    engine, user = make(repetition_window=3, patience=2.0), user_codes(2)
    state, _ = talk(engine, engine.init_state(2), user)
    before = state.clone()
    state, _ = talk(engine, state, user, active=torch.tensor([True, False]))
    for name, tensor in state.to_dict().items():
        if name == "delays":
            continue
        dim = 1 if name == "kv" else 0
        assert torch.equal(tensor.select(dim, 1), before.to_dict()[name].select(dim, 1)), name
        assert name == "seeds" or not torch.equal(tensor.select(dim, 0), before.to_dict()[name].select(dim, 0)), name


def test_a_state_can_be_cloned_stored_and_replayed():
    engine, user = make(repetition_window=4, repetition_penalty=2.0, patience=3.0), user_codes(2)
    start, _ = talk(engine, engine.init_state(2, 3), user)
    kept = start.clone()
    stored = {name: tensor.clone() for name, tensor in start.to_dict().items()}
    first, outs = talk(engine, start, user)
    assert not same(kept, first)
    for again in (kept, StreamState.from_dict(stored)):
        end, repeated = talk(engine, again, user)
        assert same(end, first)
        assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(outs, repeated, strict=True))
    with pytest.raises(InputError, match="no tensor 'kv'"):
        StreamState.from_dict({k: v for k, v in stored.items() if k != "kv"})


def test_seeds_choose_the_tokens():
    engine, user = make(), user_codes(1).expand(4, -1, -1)
    _, outs = talk(engine, engine.init_state(4, [1, 2, 1, 3]), user)
    tokens = torch.stack([out.tokens for out in outs], -1)
    assert torch.equal(tokens[0], tokens[2])
    assert not torch.equal(tokens[0], tokens[1]) and not torch.equal(tokens[1], tokens[3])
    assert engine.init_state(3, 8).seeds_B.tolist() == [8, 9, 10]
    with pytest.raises(InputError, match="seeds"):
        engine.init_state(2, [1])


def test_a_reset_cures_a_row_that_went_wrong():
    engine, user = make(greedy=True), user_codes(2)
    state, _ = talk(engine, engine.init_state(2), user)
    state.kv.store_LBGCE[:, 1] = float("nan")
    state.reset_rows(torch.tensor([False, True]))
    _, outs = talk(engine, state, user)
    _, fresh = talk(engine, engine.init_state(2), user)
    assert torch.equal(outs[-1].tokens[1], fresh[-1].tokens[1])
    assert torch.isfinite(outs[-1].text_logits).all()


@pytest.mark.parametrize("alone", [True, False])
def test_forced_frames_are_what_comes_out(alone):
    """Fully forced frames skip the depth transformer, a free row beside them does not: the result is the same."""
    batch = 1 if alone else 2
    engine, user = make(), user_codes(2)[:batch]
    text = torch.randint(0, 30, (2, 12))[:batch]
    voice = torch.randint(0, 20, (2, 3, 12))[:batch]
    if not alone:
        text[1], voice[1] = -1, -1
    state, spoken = engine.init_state(batch, 4), []
    for t in range(STEPS):
        options = {"forced_text": text[:, t], "forced_system": voice[..., t]} if t < 12 else {}
        state, out = engine.step(state, user[..., t], **options)
        if out.ready[0]:
            spoken.append(out.tokens)
        assert t >= 12 or out.text_now[0] == text[0, t]
    spoken = torch.stack(spoken, -1)
    assert torch.equal(spoken[0, 0, :12], text[0]) and torch.equal(spoken[0, 1:, :12], voice[0])
    _, plain = talk(engine, engine.init_state(batch, 4), user)
    free = torch.stack([out.tokens for out in plain if out.ready[0]], -1)
    assert not torch.equal(spoken[0, :, 12:], free[0, :, 12:])
    if not alone:
        assert torch.equal(spoken[1], free[1]), "the free row must not notice"


def test_single_codebooks_can_be_forced():
    engine, user = make(), user_codes(1, 12)
    forced = torch.tensor([[-1, 7, -1]])
    _, outs = talk(engine, engine.init_state(1), user, forced_system=forced)
    spoken = torch.stack([out.tokens[0] for out in outs if out.ready[0]], -1)
    assert (spoken[2] == 7).all() and len(spoken[1].unique()) > 1 and len(spoken[3].unique()) > 1


def test_text_bias_and_one_time_sampling():
    engine, user = make(), user_codes(1, 8)
    bias = torch.full((1, 30), float("-inf"))
    bias[0, 11] = 0
    _, outs = talk(engine, engine.init_state(1), user, text_bias=bias)
    assert all(out.text_now == 11 for out in outs)
    _, outs = talk(engine, engine.init_state(1), user, sampling=SamplingConfig(greedy=True))
    assert all(torch.equal(out.text_now, out.text_logits.argmax(-1)) for out in outs)


def test_the_guard_breaks_a_loop_but_spares_padding():
    bias = torch.zeros(1, 30)
    bias[0, 11], bias[0, 12] = 50.0, 45.0
    user = user_codes(1, 12)

    def said(bias, **settings):
        engine = make(greedy=True, **settings)
        return [int(out.text_now) for out in talk(engine, engine.init_state(1), user, text_bias=bias)[1]]

    assert said(bias) == [11] * 12
    guarded = said(bias, repetition_window=1, repetition_penalty=1e6)
    assert guarded == [11, 12] * 6
    pad = torch.zeros(1, 30)
    pad[0, CONFIG.existing_text_padding_id] = 50.0
    assert said(pad, repetition_window=4, repetition_penalty=1e6) == [CONFIG.existing_text_padding_id] * 12


def test_a_model_of_both_speakers_can_play_the_user_or_listen():
    engine = make(DUET)
    state, outs = engine.init_state(2), []
    for _ in range(10):
        state, out = engine.step(state, None)
        outs.append(out)
    assert outs[-1].tokens.shape == (2, 5) and (outs[-1].tokens >= 0).all()
    _, heard = talk(engine, engine.init_state(2), user_codes(2, 10, DUET))
    assert heard[-1].tokens.shape == (2, 3)
    listener = make()
    with pytest.raises(InputError, match=r"give \[1, 2\]"):
        listener.step(listener.init_state(1), None)


def test_extra_heads_and_models_without_a_voice():
    engine = make(dataclasses.replace(CONFIG, dep_q=0, extra_heads_num_heads=2, extra_heads_dim=4))
    user = torch.randint(0, 20, (2, 5, 6))
    _, outs = talk(engine, engine.init_state(2), user)
    assert outs[-1].tokens.shape == (2, 1)
    assert [p.shape for p in outs[-1].extra] == [(2, 4)] * 2
    assert torch.allclose(outs[-1].extra[0].sum(-1), torch.ones(2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"user_codes": torch.zeros(1, 3, dtype=torch.long)}, r"user_codes: expected int64 \[1, 2\]"),
        ({"user_codes": torch.zeros(1, 2)}, "user_codes: .*got float32"),
        ({"user_codes": torch.full((1, 2), 20)}, "user_codes: token 20 is outside the vocabulary of 20"),
        ({"user_codes": torch.full((1, 2), -2)}, "user_codes: token -2"),
        ({"forced_text": torch.tensor([30])}, "forced_text: token 30 is outside the vocabulary of 30"),
        ({"forced_system": torch.zeros(1, 2, dtype=torch.long)}, "forced_system: expected"),
    ],
)
def test_wrong_input_is_refused_and_leaves_the_state_alone(change, words):
    engine = make()
    state, _ = talk(engine, engine.init_state(1), user_codes(1, 5))
    before = state.clone()
    with pytest.raises(InputError, match=words):
        engine.step(state, **({"user_codes": torch.zeros(1, 2, dtype=torch.long)} | change))
    assert same(state, before)
