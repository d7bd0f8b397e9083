"""The training loss and the likelihoods against plain loops."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from duplex.config import PRESETS
from duplex.errors import InputError
from duplex.loss import LossWeights, audio_alphas, dialogue_loss, token_nll
from duplex.model.lm import DuplexLM

CONFIG = dataclasses.replace(
    PRESETS["toy"], dim=16, num_heads=2, num_layers=1, card=9, text_card=11, context=50, depformer_dim=8,
    depformer_num_heads=2, depformer_num_layers=1, depformer_dim_feedforward=16, n_q=4, dep_q=2,
    delays=(0, 0, 2, 0, 2), existing_text_padding_id=3, existing_text_end_padding_id=0)


@pytest.fixture
def case():
    torch.manual_seed(1)
    model = DuplexLM(CONFIG)
    codes = torch.randint(0, CONFIG.card, (3, CONFIG.num_rows, 12))
    codes[:, 0] = torch.tensor([3, 3, 5, 6, 3, 0, 7, 3, 3, 0, 8, -1])
    codes[1, 1:, 4:] = -1
    return model, codes


def naive(output, codes, weights: LossWeights):
    text_sum = text_weight = 0.0
    for b in range(codes.shape[0]):
        for t in range(codes.shape[2]):
            target = int(codes[b, 0, t])
            if target == -1:
                continue
            w = {3: weights.pad, 0: weights.epad}.get(target, 1.0)
            text_sum += w * -torch.log_softmax(output.text_logits[b, 0, t], -1)[target].item()
            text_weight += w
    rows = []
    for q, delay in enumerate(CONFIG.delays[1:3]):
        values = [
            -torch.log_softmax(output.logits[b, q, t], -1)[int(codes[b, 1 + q, t])].item()
            for b in range(codes.shape[0]) for t in range(codes.shape[2] - delay) if codes[b, 1 + q, t] >= 0]
        rows.append(sum(values) / len(values))
    alphas = [weights.semantic * weights.system, weights.acoustic * weights.system]
    audio = sum(a * r for a, r in zip(alphas, rows, strict=True)) / sum(alphas)
    return text_sum / text_weight, audio, rows


@pytest.mark.parametrize("weights", [LossWeights(), LossWeights(2.0, 0.5, 7.0, 3.0, pad=0.1, epad=4.0)])
def test_loss_is_the_plain_loop(case, weights):
    model, codes = case
    output = model(codes)
    loss = dialogue_loss(output, codes, CONFIG, weights)
    text, audio, rows = naive(output, codes, weights)
    assert loss.text.item() == pytest.approx(text, rel=1e-5)
    assert loss.audio.item() == pytest.approx(audio, rel=1e-5)
    assert loss.total.item() == pytest.approx(weights.text * text + weights.audio * audio, rel=1e-5)
    means = loss.nll.means()
    assert [means["audio_0"], means["audio_1"]] == pytest.approx(rows, rel=1e-5)


def test_depth_on_all_steps_is_the_same_loss_with_the_same_gradients(case):
    model, codes = case
    gradients = []
    for index in (None, torch.randperm(36)):
        model.zero_grad()
        loss = dialogue_loss(model(codes, index), codes, CONFIG)
        loss.total.backward()
        gradients.append([loss.total.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*gradients, strict=True):
        assert torch.isfinite(a).all()
        assert torch.allclose(a, b, atol=1e-5)


def test_likelihoods_split_the_text_and_add_up(case):
    model, codes = case
    with torch.no_grad():
        nll = dialogue_loss(model(codes), codes, CONFIG).nll
    counts = {k: int(v) for k, v in nll.counts.items()}
    assert counts == {"text": 33, "text_word": 12, "text_pad": 15, "text_epad": 6, "audio_0": 28, "audio_1": 24}
    parts = sum(float(nll.sums[f"text_{part}"]) for part in ("word", "pad", "epad"))
    assert parts == pytest.approx(float(nll.sums["text"]), rel=1e-5)
    twice = nll + nll
    assert twice.means() == pytest.approx(nll.means())
    assert int(twice.counts["text"]) == 66


def test_a_uniform_model_needs_log_of_the_vocabulary():
    logits, targets = torch.zeros(2, 5, 7), torch.arange(10).view(2, 5) % 7
    mask = torch.tensor([True, False]).view(2, 1).expand(2, 5)
    nll = token_nll(logits, targets, mask)
    assert nll[0].tolist() == pytest.approx([math.log(7)] * 5)
    assert nll[1].tolist() == [0.0] * 5


def test_rows_without_targets_do_not_count(case):
    model, codes = case
    codes[:, 2] = -1
    loss = dialogue_loss(model(codes), codes, CONFIG)
    assert loss.audio.item() == pytest.approx(loss.nll.means()["audio_0"], rel=1e-5)
    assert "audio_1" not in loss.nll.means()
    codes[:] = -1
    silent = dialogue_loss(model(codes), codes, CONFIG)
    silent.total.backward()
    assert silent.total.item() == 0.0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_weights_of_the_rows_of_two_speakers():
    both = dataclasses.replace(CONFIG, dep_q=4)
    assert audio_alphas(both, LossWeights(user=0.5)) == [100, 1, 50, 0.5]
    assert audio_alphas(CONFIG, LossWeights(user=0.5)) == [100, 1]


def test_a_target_outside_the_vocabulary_is_named(case):
    model, codes = case
    output = model(codes)
    codes[0, 1, 0] = CONFIG.card
    with pytest.raises(InputError, match="token 9 is outside the vocabulary of 9"):
        dialogue_loss(output, codes, CONFIG)
