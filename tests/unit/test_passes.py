"""The forms that training on a CPU takes, against the plain ones: same values, same gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from duplex.config import PRESETS
from duplex.loss import dialogue_loss
from duplex.model import passes
from duplex.model.layers import GatedFeedForward, RMSNorm, Rotation, attend
from duplex.model.lm import DuplexLM
from duplex.model.lora import add_lora

SMALL = dataclasses.replace(
    PRESETS["toy"], dim=16, num_heads=2, num_layers=2, card=9, text_card=11, context=400, depformer_dim=8,
    depformer_num_heads=2, depformer_num_layers=2, depformer_dim_feedforward=24, n_q=4, dep_q=2, delays=(0, 0, 1, 0, 1))


def both_ways(compute, *inputs):
    """Values and gradients of `compute(*inputs)` in the short form and in the plain one."""
    results = []
    for plain in (False, True):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        with pytest.MonkeyPatch.context() as patch:
            if plain:
                patch.setattr(passes, "applies", lambda x: False)
            out = compute(*leaves)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(7))
        grads = torch.autograd.grad((out * weight).sum(), leaves)
        results.append([out.detach(), *grads])
    return results


def assert_same(short, plain):
    assert all(x.isfinite().all() for x in short)
    for a, b in zip(short, plain, strict=True):
        assert a.shape == b.shape and (a - b).norm() <= 1e-4 * b.norm() + 1e-6


@pytest.mark.parametrize("T", [1, 8, 128, 300])
def test_attention_in_blocks(T):
    torch.manual_seed(0)
    assert_same(*both_ways(lambda q, k, v: attend(q, k, v, causal=True), *torch.randn(3, 2, 4, T, 8)))


@pytest.mark.parametrize("window", [2, 100, 128, 299, 300])
def test_attention_in_blocks_with_a_window(window):
    torch.manual_seed(0)
    assert_same(*both_ways(lambda q, k, v: attend(q, k, v, causal=True, window=window), *torch.randn(3, 2, 4, 300, 8)))


def test_attention_with_shared_heads():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 20, 8), torch.randn(2, 2, 20, 8), torch.randn(2, 2, 20, 8)
    assert_same(*both_ways(lambda *x: attend(*x, causal=True), q, k, v))


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotation(interleaved):
    rotation = Rotation.at(torch.arange(30), 8, 10_000, interleaved)
    x = torch.randn(2, 30, 4, 8).transpose(1, 2)
    assert_same(*both_ways(rotation, x))


def test_norm_and_its_scale():
    norm = RMSNorm(12, 1e-5, True)

    def compute(x, alpha):
        return torch.func.functional_call(norm, {"alpha": alpha}, (x,))

    assert_same(*both_ways(compute, torch.randn(3, 5, 12), torch.rand(1, 1, 12)))
    assert_same(*both_ways(compute, torch.zeros(1, 2, 12), torch.rand(1, 1, 12)))


def test_gated_feed_forward():
    torch.manual_seed(0)
    layer = GatedFeedForward(8, 24, "silu")
    assert_same(*both_ways(layer, torch.randn(4, 3, 8)))


def loss_and_gradients(model, codes, index, plain):
    model.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        if plain:
            patch.setattr(passes, "applies", lambda x: False)
        out = dialogue_loss(model(codes, index), codes, model.config)
        out.total.backward()
    return [out.total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("change", [
    {}, {"depformer_weights_per_step_schedule": (0, 0)}, {"norm_emb": True}, {"depformer_norm": "rms_norm"},
    {"depformer_weights_per_step": False}, {"gating": "gelu"}, {"bias_proj": True}, {"depformer_multi_linear": False},
    {"depformer_dim_feedforward": (24, 36)}, {"depformer_low_rank_embeddings": 4}, {"positional_embedding": "sin_rope"},
    {"depformer_pos_emb": "rope"}], ids=str)
def test_whole_model(change):
    torch.manual_seed(0)
    model = DuplexLM(dataclasses.replace(SMALL, **change))
    codes = torch.randint(0, 9, (2, 5, 40))
    codes[1, 2:, 7:20] = -1
    for index in (None, torch.tensor([0, 5, 40, 79])):
        short = [g.clone() for g in loss_and_gradients(model, codes, index, plain=False)]
        assert_same(short, loss_and_gradients(model, codes, index, plain=True))


def test_adapters_train_as_before():
    torch.manual_seed(0)
    model = DuplexLM(SMALL).requires_grad_(False)
    add_lora(model, 2, 2.0)
    for name, p in model.named_parameters():
        p.requires_grad_("lora" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    codes = torch.randint(0, 9, (2, 5, 30))
    short = [g.clone() for g in loss_and_gradients(model, codes, None, plain=False)]
    assert len(short) > 20
    assert_same(short, loss_and_gradients(model, codes, None, plain=True))


def test_the_forms_are_used_in_training_only():
    weight = torch.ones(2, requires_grad=True)
    assert passes.applies(weight)
    with torch.no_grad():
        assert not passes.applies(weight)
    assert not passes.applies(weight.detach())
    assert not passes.applies(weight.bfloat16())


def test_the_forward_pass_can_be_compiled():
    torch.manual_seed(0)
    model = DuplexLM(SMALL)
    codes, index = torch.randint(0, 9, (2, 5, 40)), torch.tensor([0, 5, 40, 79])
    plain = dialogue_loss(model(codes, index), codes, SMALL).total
    torch._dynamo.reset()
    # The eager back end follows the program as the others do, and needs no C++ compiler.
    compiled = dialogue_loss(torch.compile(model, backend="eager")(codes, depth_index=index), codes, SMALL).total
    compiled.backward()
    assert torch.allclose(compiled, plain, rtol=1e-5) and model.text_emb.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("few", [0.0, 1e9], ids=["gathered", "in place"])
def test_weights_in_place_or_gathered_give_the_same(few, monkeypatch):
    monkeypatch.setattr(passes, "FEW", few)
    torch.manual_seed(0)
    layers = [torch.nn.Linear(8, 12, bias=False) for _ in range(3)]
    assert_same(*both_ways(lambda x, *w: passes.each_linear(x, layers) if passes.applies(x) else torch.stack(
        [layer(x_ND) for layer, x_ND in zip(layers, x.unbind(1), strict=True)], 1), torch.randn(5, 3, 8)))
    tables, ids = [torch.randn(6, 8), torch.randn(9, 8)], torch.tensor([[[0, 5, -1], [8, -1, 2]]])
    expected = torch.stack([tables[0][0] + tables[1][8], tables[0][5], tables[1][2]])[None]
    assert torch.allclose(passes.sum_of_embeddings(ids, tables), expected, atol=1e-6)
