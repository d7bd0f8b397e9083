"""The model: streaming equals parallel, chosen depth steps, gradients, weights and their two layouts on disk."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from duplex.config import PRESETS, LMConfig
from duplex.errors import ConfigError, InputError
from duplex.model.layers import Rotation, TokenEmbedding
from duplex.model.lm import DuplexLM
from duplex.model.projections import stacked_state_dict

T = 40
BASE = dataclasses.replace(
    PRESETS["toy"], dim=32, num_heads=4, num_layers=2, card=20, text_card=30, context=7, depformer_dim=16,
    depformer_num_heads=2, depformer_dim_feedforward=32, n_q=4, dep_q=2, delays=(0, 0, 2, 0, 2))
VARIANTS = {
    "rope": BASE,
    "absolute": dataclasses.replace(BASE, positional_embedding="sin", depformer_pos_emb="sin", gating="none"),
    "grouped": dataclasses.replace(BASE, kv_repeat=2, positional_embedding="rope_concat", norm="layer_norm",
                                   depformer_kv_repeat=2, depformer_pos_emb="rope", layer_scale=0.3),
    "shared-depth": dataclasses.replace(BASE, depformer_weights_per_step=False, depformer_gating="none",
                                        depformer_multi_linear=False, depformer_norm="rms_norm"),
    "no-context-limit": dataclasses.replace(BASE, context=100),
}


def model_and_codes(config: LMConfig = BASE, batch: int = 2, frames: int = T) -> tuple[DuplexLM, torch.Tensor]:
    torch.manual_seed(0)
    model = DuplexLM(config).eval()
    codes = torch.randint(0, config.card, (batch, config.num_rows, frames))
    codes[torch.rand(codes.shape) < 0.1] = -1
    return model, codes


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_one_frame_at_a_time_gives_the_logits_of_one_pass(name):
    model, codes = model_and_codes(VARIANTS[name])
    config, B = model.config, len(codes)
    parallel = model(codes)
    delayed = model.pattern.apply(codes, model.initial_tokens())
    ring = model.transformer.make_ring(B)
    tokens = model.initial_tokens().expand(B, -1)
    text, audio = [], []
    for t in range(T):
        frames = torch.full((B,), t)
        hidden = model.out_norm(model.transformer.step(model.embed(tokens[..., None])[:, 0], ring, frames))
        text.append(model.text_linear(hidden))
        tokens = delayed[..., t]
        cache = model.depformer.make_cache(B, hidden)
        audio.append(torch.stack([model.depth_step(q, hidden, tokens[:, q], cache) for q in range(config.dep_q)], 1))
    assert ring.store_LBGCE.shape[3] == config.context
    text_difference = torch.stack(text, 1) - parallel.text_logits[:, 0]
    audio_logits, mask = model.pattern.rows(slice(1, 3)).align(torch.stack(audio, 2), float("nan"))
    assert text_difference.abs().max() < 2e-5
    assert (audio_logits - parallel.logits)[mask].abs().max() < 2e-5
    assert parallel.text_logits.std() > 0.1


@torch.no_grad()
def test_rows_at_different_frames_share_a_ring():
    model, _ = model_and_codes()
    x = torch.randn(3, 25, BASE.dim)
    alone = model.transformer(x)
    ring, at, out = model.transformer.make_ring(3), torch.zeros(3, dtype=torch.long), torch.zeros_like(x)
    while (at < 25).any():
        active = (torch.rand(3) < torch.tensor([1.0, 0.5, 0.2])) & (at < 25)
        frame = at.clamp(max=24)
        y = model.transformer.step(x[torch.arange(3), frame], ring, frame, active)
        out[active, at[active]] = y[active]
        at += active
    assert (out - alone).abs().max() < 2e-5


def test_the_past_beyond_the_context_is_forgotten_and_the_future_unknown():
    model, codes = model_and_codes(dataclasses.replace(BASE, num_layers=1))
    with torch.no_grad():
        before = model(codes).text_logits[:, 0]
        changed = codes.clone()
        changed[:, 1, 10] = (changed[:, 1, 10] + 1) % BASE.card
        after = model(changed).text_logits[:, 0]
    # Row 1 has no delay: frame 10 is the input of step 11 and stays in view for `context` steps.
    moved = (before - after).abs().amax((0, 2)) > 1e-6
    assert moved.nonzero().flatten().tolist() == list(range(11, 11 + BASE.context))


@torch.no_grad()
def test_chosen_depth_steps_are_those_of_the_whole_pass():
    model, codes = model_and_codes()
    whole = model(codes)
    index = torch.randperm(codes.shape[0] * T)[:30]
    some = model(codes, depth_index=index)
    assert torch.equal(some.text_logits, whole.text_logits)
    seen = 0
    for n, flat in enumerate(index.tolist()):
        b, step = divmod(flat, T)
        for q, delay in enumerate(BASE.delays[1 : 1 + BASE.dep_q]):
            frame = step - delay
            assert bool(some.mask[n, q]) == (frame >= 0 and bool(whole.mask[b, q, frame]))
            if some.mask[n, q]:
                seen += 1
                assert some.depth_targets[n, q] == codes[b, 1 + q, frame]
                assert torch.allclose(some.logits[n, q], whole.logits[b, q, frame], atol=1e-5)
    assert seen > 20
    empty = model(codes, depth_index=index[:0])
    assert empty.logits.shape == (0, BASE.dep_q, BASE.card)


def test_every_parameter_gets_a_finite_gradient_and_checkpointing_does_not_change_it():
    model, codes = model_and_codes(dataclasses.replace(BASE, extra_heads_num_heads=1))
    recomputing = DuplexLM(dataclasses.replace(model.config, gradient_checkpointing=True))
    recomputing.load_state_dict(model.state_dict())
    for m in (model, recomputing):
        out = m(codes)
        (out.logits[out.mask].square().sum() + out.text_logits[out.text_mask].square().sum()).backward()
    for (name, p), (_, q) in zip(model.named_parameters(), recomputing.named_parameters(), strict=True):
        if name.startswith("extra_heads"):
            continue
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0, name
        assert torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-5), name


def test_stacked_and_single_projections_both_load():
    model, _ = model_and_codes()
    single, stacked = model.state_dict(), stacked_state_dict(model.state_dict())
    key = "depformer.layers.0.self_attn.in_proj_weight"
    assert stacked[key].shape == (2 * 3 * 16, 16)
    assert stacked["transformer.layers.1.self_attn.out_proj.weight"].shape == (32, 32)
    fresh = DuplexLM(BASE)
    fresh.load_state_dict(stacked, strict=True)
    assert all(torch.equal(v, single[k]) for k, v in fresh.state_dict().items())
    with pytest.raises(RuntimeError, match="in_proj_weight"):
        fresh.load_state_dict(stacked | {key: stacked[key][:-1]}, strict=True)


def test_fresh_weights_keep_the_scale_of_their_input():
    torch.manual_seed(0)
    model = DuplexLM(dataclasses.replace(BASE, dim=128, depformer_dim=64, norm="rms_norm_f32"))
    for name, p in model.named_parameters():
        if p.dim() == 2:
            assert 0.8 < p.std().item() * p.shape[1] ** 0.5 < 1.1, name


@torch.no_grad()
def test_half_precision_stays_close():
    model, codes = model_and_codes()
    exact = model(codes)
    model.to(torch.bfloat16)
    rounded = model(codes)
    assert rounded.logits.dtype == torch.bfloat16
    for a, b, mask in ((exact.text_logits, rounded.text_logits, exact.text_mask),
                       (exact.logits, rounded.logits, exact.mask)):
        assert (a[mask] - b[mask].float()).square().mean() < 1e-3 * a[mask].square().mean()
    ring = model.transformer.make_ring(2)
    steps = model.pattern.apply(codes, model.initial_tokens())
    steps = torch.cat([model.initial_tokens().expand(2, -1)[..., None], steps], -1)
    for t in range(12):
        hidden = model.transformer.step(model.embed(steps[..., t : t + 1])[:, 0], ring, torch.full((2,), t))
    streamed = model.text_linear(model.out_norm(hidden))
    assert (streamed - rounded.text_logits[:, 0, 11]).abs().max() < 0.1


def test_wrong_number_of_rows():
    model, codes = model_and_codes()
    with pytest.raises(InputError, match="4 rows, the model has 5"):
        model(codes[:, :4])


def test_a_model_without_depth_predicts_text():
    model, codes = model_and_codes(dataclasses.replace(BASE, dep_q=0))
    out = model(codes)
    assert out.logits.shape == (2, 0, T, BASE.card) and out.mask.shape == (2, 0, T)
    assert torch.isfinite(out.text_logits).all()


def test_streaming_needs_a_context_limit():
    with pytest.raises(ConfigError, match="context"):
        DuplexLM(dataclasses.replace(BASE, context=None)).transformer.make_ring(1)


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotation_depends_on_the_distance_alone(interleaved):
    q, k = torch.randn(2, 8).unbind(0)

    def score(i: int, j: int) -> torch.Tensor:
        turned = Rotation.at(torch.tensor([i, j]), 8, 100.0, interleaved)(torch.stack([q, k]))
        return turned[0] @ turned[1]

    assert torch.allclose(score(5, 2), score(105, 102), atol=1e-4)
    assert torch.allclose(score(3, 3), q @ k, atol=1e-5)
    assert not torch.allclose(score(5, 2), score(5, 3), atol=1e-2)


def test_negative_tokens_are_embedded_to_zero_whatever_the_options():
    for options in ({}, {"norm": True}, {"low_rank": 3}, {"demux": True}):
        embedding = TokenEmbedding(10, 6, **options)
        torch.nn.init.normal_(embedding.weight)
        out = embedding(torch.tensor([-1, 4]))
        assert torch.equal(out[0], torch.zeros(6)) and out[1].abs().sum() > 0


def test_two_tokens_in_one_id():
    embedding = TokenEmbedding(10, 6, demux=True)
    torch.nn.init.normal_(embedding.weight)
    both = embedding(torch.tensor([(4 + 1) * 10 + 7]))
    assert torch.allclose(both, embedding.out1(embedding.weight[7:8]) + embedding.out2(embedding.weight[4:5]), atol=1e-5)
    assert torch.allclose(embedding(torch.tensor([7])), embedding.out1(embedding.weight[7:8]), atol=1e-6)
