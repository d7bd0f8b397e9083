"""The delay rule: both forms against a plain loop, and against each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex.delays import DelayLine, DelayPattern
from duplex.errors import ConfigError
from duplex.streams import UNGENERATED

delay_lists = st.lists(st.integers(0, 4), min_size=1, max_size=5)


def naive_delay(codes, delays, initial):
    """Row k of frame t goes to step t + delay[k]: the rule, written out."""
    B, K, T = codes.shape
    out = [[[initial[k]] * (T + max(delays)) for k in range(K)] for _ in range(B)]
    for b in range(B):
        for k in range(K):
            for t in range(T):
                out[b][k][t + delays[k]] = int(codes[b, k, t])
    return torch.tensor(out).view(B, K, T + max(delays))


@given(delay_lists, st.integers(1, 9), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_parallel_form_is_the_naive_loop_and_undo_inverts_it(delays, frames, batch, random):
    codes = torch.tensor([[[random.randrange(100) for _ in range(frames)] for _ in delays] for _ in range(batch)])
    initial = [-10 - k for k in range(len(delays))]
    pattern = DelayPattern(tuple(delays))
    delayed = pattern.apply(codes, initial)
    assert torch.equal(delayed, naive_delay(codes, delays, initial))
    assert torch.equal(pattern.undo(delayed), codes)


@given(delay_lists, st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_align_returns_what_was_reached_and_marks_the_rest(delays, frames):
    codes = torch.arange(len(delays) * frames).view(1, len(delays), frames)
    pattern = DelayPattern(tuple(delays))
    cut = pattern.apply(codes, [-1] * len(delays))[..., :frames]
    aligned, mask = pattern.align(cut[..., None], -7)
    for k, delay in enumerate(delays):
        for t in range(frames):
            assert bool(mask[0, k, t]) == (t + delay < frames)
            assert aligned[0, k, t, 0] == (codes[0, k, t] if t + delay < frames else -7)


@given(delay_lists, st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=14))
@settings(max_examples=60, deadline=None)
def test_line_of_frames_and_line_of_steps_are_the_parallel_form(delays, course):
    """Two batch rows at different offsets: the second pauses and is reset in the middle."""
    K, pattern = len(delays), DelayPattern(tuple(delays))
    codes = torch.arange(2 * K * 20).view(2, K, 20)
    delayed = pattern.apply(codes, [UNGENERATED] * K)
    by_frame, by_step = DelayLine.empty(delays, 2), DelayLine.empty(delays, 2)
    at, rows, everything = torch.zeros(2, dtype=torch.long), slice(0, K), torch.arange(2)
    for active, reset in course:
        if reset == 3:
            at[1] = 0
            for line in (by_frame, by_step):
                line.reset(torch.tensor([False, True]))
        where = torch.tensor([True, active])[:, None]
        by_frame.write_frame(rows, at, codes[everything, :, at], where)
        by_step.write_step(rows, at, delayed[everything, :, at], where)
        for b in (0, 1) if active else (0,):
            # Written ahead of its time, a frame is found on its steps; a step holds parts of several frames.
            assert torch.equal(by_frame.read_step(at)[b], delayed[b, :, at[b]])
            assert torch.equal(by_step.read_step(at)[b], delayed[b, :, at[b]])
            complete = at[b] - pattern.max_delay
            if complete >= 0:
                frame = at - pattern.max_delay
                assert torch.equal(by_step.read_frame(frame)[b], codes[b, :, complete])
                assert torch.equal(by_frame.read_frame(frame)[b], codes[b, :, complete])
        at = at + torch.tensor([1, int(active)])


def test_a_clone_is_independent_and_an_unmarked_element_stays():
    line = DelayLine.empty([0, 1], 1)
    at = torch.zeros(1, dtype=torch.long)
    line.write_step(slice(0, 2), at, torch.tensor([[5, 6]]), torch.tensor([[True, False]]))
    assert line.read_step(at).tolist() == [[5, UNGENERATED]]
    copy = line.clone()
    copy.write_step(slice(0, 2), at, torch.tensor([[8, 9]]), torch.tensor([[True, True]]))
    assert line.read_step(at).tolist() == [[5, UNGENERATED]]


def test_negative_delays_are_refused():
    with pytest.raises(ConfigError, match="delays"):
        DelayPattern((0, -1))
