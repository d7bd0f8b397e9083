"""A step leaves nothing behind: what malloc has given out is the same after every frame, whatever computes it."""

from __future__ import annotations

import ctypes
import gc
import shutil

import pytest
import torch

from duplex.fast.backends import make_engine
from duplex.testing import fake_loaded_model

FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
FRAMES, WARM_UP, SLACK = 300, 60, 4096
"""Frames, those before them (more than the context), and bytes that Python's own tables may take; a frame's output is more than
a kilobyte, so that keeping one in a hundred would show."""


class _Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


@pytest.fixture
def in_use():
    """Bytes that malloc has given out and not had back, in its heaps and in mappings of their own."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        pytest.skip("needs mallinfo2 (glibc 2.33)")
    mallinfo2.restype = _Info

    def counted() -> int:
        gc.collect()
        info = mallinfo2()
        return info.uordblks + info.hblkhd

    return counted


def growth(in_use, backend, frames, keep):
    """Bytes held after every twenty of `frames` frames, more than after the warm-up; `keep` is given every output."""
    model = fake_loaded_model()
    engine, generator = make_engine(model.lm, None, backend), torch.Generator().manual_seed(1)
    codes = torch.randint(model.config.card, (64, 2, model.lm.layout.n_user), generator=generator)
    state, more = engine.init_state(2), torch.zeros(frames // 20, dtype=torch.long)
    start = 0
    for frame in range(WARM_UP + frames):
        if frame == WARM_UP:
            start = in_use()
        state, out = engine.step(state, codes[frame % 64])
        keep(out)
        del out
        if frame >= WARM_UP and frame % 20 == 19:
            more[(frame - WARM_UP) // 20] = in_use() - start
    return more


@pytest.mark.parametrize("backend", ["naive", "native"])
def test_a_step_leaves_no_memory_behind(in_use, backend):
    if backend == "native" and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("the native kernels need a C++ compiler (Debian: g++)")
    assert growth(in_use, backend, FRAMES, lambda out: None).max() < SLACK
    kept: list[object] = []
    assert growth(in_use, backend, 40, kept.append)[-1] > 40 * 1024  # what is kept is seen
