"""A step leaves nothing behind: what malloc has given out is the same after every frame, whatever computes it.

Counted in a process of its own: threads that other tests have left in this one allocate whenever they like.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from duplex.fast.backends import make_engine
from duplex.testing import fake_loaded_model

ROOT = Path(__file__).parents[2]
FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
FRAMES, WARM_UP, SLACK = 300, 60, 16 * 1024
"""Frames, those before them (more than the context), and bytes that Python's own tables may take; a frame's output is more than
a kilobyte, so that keeping one in twenty would show."""


class _Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


def counter():
    """mallinfo2 of the C library; None where it has none (before glibc 2.33)."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    mallinfo2.restype = _Info
    return mallinfo2


def in_use() -> int:
    """Bytes that malloc has given out and not had back, in its heaps and in mappings of their own."""
    gc.collect()
    info = counter()()
    return info.uordblks + info.hblkhd


def growth(backend: str, frames: int, kept: list | None = None) -> list[int]:
    """Bytes held after every twenty of `frames` frames, more than after the warm-up; `kept` takes every output."""
    model = fake_loaded_model()
    engine, generator = make_engine(model.lm, None, backend), torch.Generator().manual_seed(1)
    codes = torch.randint(model.config.card, (64, 2, model.lm.layout.n_user), generator=generator)
    state, more = engine.init_state(2), torch.zeros(frames // 20, dtype=torch.long)
    start = 0
    for frame in range(WARM_UP + frames):
        if frame == WARM_UP:
            start = in_use()
        state, out = engine.step(state, codes[frame % 64])
        if kept is not None:
            kept.append(out)
        del out
        if frame >= WARM_UP and frame % 20 == 19:
            more[(frame - WARM_UP) // 20] = in_use() - start
    return more.tolist()


@pytest.mark.parametrize("backend", ["naive", "native"])
def test_a_step_leaves_no_memory_behind(backend):
    if counter() is None:
        pytest.skip("needs mallinfo2 (glibc 2.33)")
    if backend == "native" and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("the native kernels need a C++ compiler (Debian: g++)")
    found = subprocess.run([sys.executable, __file__, backend], capture_output=True, text=True, timeout=300,
                           cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert found.returncode == 0, found.stderr
    without, with_outputs_kept = json.loads(found.stdout.splitlines()[-1])
    assert max(without) < SLACK
    assert with_outputs_kept[-1] > 40 * 1024  # what is kept is seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([growth(sys.argv[1], FRAMES), growth(sys.argv[1], 40, [])]))
