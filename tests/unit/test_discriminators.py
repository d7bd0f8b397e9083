"""Adversarial training of the codec: the discriminators learn, and what they teach flows into the codec alone."""

from __future__ import annotations

import pytest
import torch

from train.discriminators import AdversarialSettings, Discriminators

SMALL = AdversarialSettings(on=True, windows=(256, 128), channels=4, lr=3e-3, start=2)


@pytest.fixture
def sounds():
    """Recordings are tones, what the codec makes of them is noise of the same power."""
    torch.manual_seed(0)
    time = torch.arange(1920) / 24_000
    pitch = torch.tensor([200.0, 350.0, 500.0, 800.0])[:, None, None]
    return 0.3 * torch.sin(2 * torch.pi * pitch * time), 0.2 * torch.randn(4, 1, 1920)


def test_the_discriminators_learn_to_tell_them_apart(sounds):
    recorded, made = sounds
    nets, seen = Discriminators(SMALL), []
    optimizer = torch.optim.AdamW(nets.parameters(), SMALL.lr, SMALL.betas)
    for _ in range(40):
        loss = nets.own_loss(recorded, made)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[0] > 1.5 and seen[-1] < 0.7 * seen[0]
    real, fake = nets(recorded)[0][0].mean(), nets(made)[0][0].mean()
    assert real > fake


def test_the_hinge_losses_are_the_plain_formula(sounds):
    torch.manual_seed(1)
    nets = Discriminators(SMALL)
    recorded, made = sounds
    total = 0.0
    for scale in nets.scales:
        (real, _), (fake, _) = scale(recorded), scale(made)
        total += sum(max(0.0, 1 - v) for v in real.flatten().tolist()) / real.numel()
        total += sum(max(0.0, 1 + v) for v in fake.flatten().tolist()) / fake.numel()
    assert nets.own_loss(recorded, made).item() == pytest.approx(total / len(nets.scales), rel=1e-4)


def test_gradients_reach_the_codec_and_not_the_discriminators(sounds):
    recorded, made = sounds
    made = made.clone().requires_grad_()
    nets, terms = Discriminators(SMALL), {}
    nets.codec_loss(recorded, made, 2, terms).backward()
    assert made.grad.abs().sum() > 0 and set(terms) == {"adversarial", "features"}
    assert all(p.grad is None and p.requires_grad for p in nets.parameters())
    before = made.grad.clone()
    nets.own_loss(recorded, made).backward()
    assert torch.equal(made.grad, before)  # what they learn from does not reach into the codec


def test_features_of_the_same_sound_do_not_differ(sounds):
    nets = Discriminators(SMALL)
    assert nets.codec_losses(sounds[0], sounds[0])[1] == 0
    assert nets.codec_losses(*sounds)[1] > 0.1


def test_nothing_is_taught_before_the_start(sounds):
    terms = {}
    assert Discriminators(SMALL).codec_loss(*sounds, 1, terms) == 0 and terms == {}


def test_short_sounds_are_filled_up():
    assert len(Discriminators(SMALL)(torch.randn(1, 1, 100))) == 2


def test_a_step_may_use_fewer_codebooks_and_any_number_of_them():
    import numpy as np

    from duplex.codec import MimiConfig
    from train.codec_model import CodecTrainer, CodecTraining

    config = MimiConfig(dimension=16, n_filters=2, codebook_dim=8, n_codebooks=5, cardinality=16, num_heads=2, num_layers=1,
                        dim_feedforward=32, context=16, layer_scale=0.1)
    trainer = CodecTrainer(config, CodecTraining(codebook_dropout=0.5), 0)
    rest, counts = trainer.branches[1], []
    for step in range(200):
        trainer.drop_codebooks(np.random.default_rng(step))
        counts.append(rest.rng_dropout.randint(1, rest.n_q) if rest.q_dropout else 0)
    assert 0.4 < np.mean(np.array(counts) > 0) < 0.6 and set(counts) == {0, 1, 2, 3, 4}
    trainer.drop_codebooks(np.random.default_rng(7))
    again = rest.q_dropout, rest.rng_dropout.random()
    trainer.drop_codebooks(np.random.default_rng(7))
    assert again == (rest.q_dropout, rest.rng_dropout.random())
