"""Noise, choice and the repetition guard."""

from __future__ import annotations

import math

import pytest
import torch

from duplex.sampling import QUIET_FRAMES, discourage, note_wish, pick, remember, uniform_noise, wait


def chi_square(values: torch.Tensor, bins: int = 64) -> float:
    counts = torch.histc(values.flatten(), bins, 0, 1)
    expected = values.numel() / bins
    return ((counts - expected) ** 2 / expected).sum().item()


# The chi-square of 63 degrees of freedom exceeds 120 once in 10,000 samples.
@pytest.mark.parametrize("along", ["seeds", "frames", "draws"])
def test_noise_is_uniform_and_uncorrelated_along_every_axis(along):
    n = 20_000
    count, zeros = torch.arange(n), torch.zeros(n, dtype=torch.long)
    noise = {
        "seeds": lambda: uniform_noise(count, zeros, 1)[:, 0],
        "frames": lambda: uniform_noise(zeros, count, 1)[:, 0],
        "draws": lambda: uniform_noise(zeros[:1], zeros[:1], n)[0],
    }[along]()
    assert 0 <= noise.min() and noise.max() < 1
    assert chi_square(noise) < 120
    centred = noise - 0.5
    for lag in (1, 2, 7):
        correlation = (centred[lag:] * centred[:-lag]).mean() * 12
        assert abs(correlation) < 5 / math.sqrt(n)


def test_noise_belongs_to_seed_frame_and_draw():
    seeds, frames = torch.tensor([3, 4, 3, 3 + 2**40]), torch.tensor([5, 5, 6, 5])
    together = uniform_noise(seeds, frames, 4)
    assert together.unique().numel() == 16
    alone = uniform_noise(seeds[1:2], frames[1:2], 2)
    assert torch.equal(alone[0], together[1, :2])
    assert uniform_noise(torch.tensor([-1]), torch.tensor([0]), 1).item() < 1


def test_choices_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5]])
    n = 40_000
    noise = uniform_noise(torch.arange(n), torch.zeros(n, dtype=torch.long), 1)[:, 0]
    for temperature, k in ((1.0, 0), (0.5, 0), (1.0, 3)):
        tokens = pick(logits.expand(n, -1), noise, temperature, k)
        expected = torch.softmax(logits[0] / temperature, -1)
        if k:
            kept = torch.zeros(5).index_fill_(0, expected.topk(k).indices, 1)
            expected = expected * kept / (expected * kept).sum()
        observed = torch.bincount(tokens, minlength=5) / n
        assert torch.allclose(observed, expected, atol=4 * 0.5 / math.sqrt(n))
        assert (observed[expected == 0] == 0).all()


def test_extreme_noise_stays_inside_and_impossible_tokens_are_never_chosen():
    logits = torch.tensor([[1.0, float("-inf"), 0.0]]).expand(2, -1)
    noise = torch.tensor([0.0, 1 - 2.0**-23])
    assert pick(logits, noise, 1.0, 0).tolist() == [0, 2]
    assert pick(logits, noise, 1.0, 1).tolist() == [0, 0]
    assert pick(logits * 1.0, noise, 1.0, 100).tolist() == [0, 2]


def test_no_temperature_takes_the_largest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 5.5]])
    assert pick(logits, torch.rand(2), 0.0, 2).tolist() == [1, 2]


def test_the_guard_divides_the_odds_of_each_remembered_token_once():
    logits = torch.randn(2, 6)
    recent = torch.tensor([[2, 2, -1], [-1, -1, -1]])
    guarded = discourage(logits, recent, 3.0)
    assert (logits - guarded)[0].tolist() == pytest.approx([0, 0, math.log(3), 0, 0, 0], abs=1e-6)
    assert torch.equal(guarded[1], logits[1])
    assert discourage(logits, recent, 1.0) is logits
    assert discourage(logits, recent[:, :0], 3.0) is logits


def test_patience_favours_silence_until_the_wish_to_speak_has_lasted():
    logits = torch.zeros(4, 5)
    onset = torch.tensor([[0.0, QUIET_FRAMES], [0.0, QUIET_FRAMES - 1], [1.0, 90.0], [2.5, 90.0]])
    waited = wait(logits, onset, 4.0, pad=3)
    assert waited[:, 3].tolist() == pytest.approx([4.0, 0.0, 4 / 3, 0.0])
    assert not waited[:, [0, 1, 2, 4]].any() and not logits.any()
    assert wait(logits, onset, 0.0, 3) is logits


def test_the_wish_to_speak_is_all_but_silence_and_fades():
    onset = torch.tensor([[0.0, 6.0], [0.0, 6.0], [1.0, 2.0]])
    sure = torch.tensor([[0.0, 0.0, 30.0], [30.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    everyone = torch.tensor([True, True, False])
    for _ in range(3):
        note_wish(onset, sure, torch.tensor([2, 2, 0]), 2, everyone)
    assert onset[0].tolist() == pytest.approx([0.0, 9.0], abs=1e-5) and onset[1].tolist() == pytest.approx([2.19, 9.0], abs=1e-5)
    note_wish(onset, sure, torch.tensor([2, 0, 0]), 2, everyone)
    assert onset[1, 1] == 0 and onset[2].tolist() == [1.0, 2.0]


def test_memory_keeps_the_last_tokens_of_marked_rows():
    recent = torch.full((2, 2), -1)
    for token in (4, 5, 6):
        remember(recent, torch.tensor([token, token]), torch.tensor([True, token == 5]))
    assert recent.tolist() == [[5, 6], [-1, 5]]
