"""An open loudspeaker: the system's turns through room, echo canceller, detector and policy, while the user is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

import duplex
from benchmarks.trust.echo import heard
from duplex.audio import read_audio, to_mono
from duplex.units import FRAME_SAMPLES

pytestmark = pytest.mark.live
SPEECH = to_mono(read_audio(Path(duplex.__file__).parent / "assets" / "demo" / "user.wav"))
SPEECH = SPEECH[: len(SPEECH) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)


def test_the_system_does_not_interrupt_itself():
    pytest.importorskip("livekit", reason="pip install -e '.[live]'")
    acted, interruptions, turns = map(sum, zip(*(heard(SPEECH, seed, cancel=True) for seed in (1, 2)), strict=True))
    assert turns >= 14
    assert acted == 0 and interruptions <= 0.02 * turns
    # The test could fail: so it is without the canceller.
    acted, interruptions, turns = heard(SPEECH[120:220], 1, cancel=False)
    assert acted > 0 and interruptions > 0.02 * turns
