"""Unmodified clients of others, 30 s each in real time: at least 99 % of the frames, and an orderly end."""

from __future__ import annotations

import asyncio

import pytest

for _package in ("uvicorn", "websockets", "soxr"):
    pytest.importorskip(_package, reason="pip install -e '.[serve]'")
from clients import livekit_live, moshi_client, openai_live, our_client, server  # noqa: E402
from pulse import Pulse, skip_without_pulse  # noqa: E402

pytestmark = pytest.mark.live
SECONDS = 30.0


def check(heard, sent: float = 0.99, silent: float = 0.0):
    """Nearly all frames came and were answered; up to a share ``silent`` of them may have been silence that was let go."""
    assert heard.sent >= sent * SECONDS / 0.08
    assert heard.received + min(heard.silent, silent * heard.sent) >= 0.99 * heard.sent, heard
    assert heard.text.strip()


def test_three_clients_at_once_for_half_a_minute():
    """Two of the Live API and our own, side by side on one server, each with its own slot."""
    pytest.importorskip("openai", reason="pip install -e '.[clients]'")
    pytest.importorskip("livekit.plugins.openai", reason="pip install -e '.[clients]'")

    async def all_of_them(port):
        return await asyncio.gather(*(driver(port, SECONDS) for driver in (openai_live, livekit_live, our_client)))

    with server("--slots", "3", fake=True) as port:
        rows = asyncio.run(all_of_them(port))
    for heard in rows:
        check(heard)
        assert heard.first_audio_ms < 2_000
    assert rows[0].notes == "close_requested" and rows[1].notes == rows[2].notes == ""


def test_moshis_own_client(tmp_path):
    skip_without_pulse()
    pytest.importorskip("sounddevice", reason="pip install -e '.[live]'")
    pulse = Pulse(tmp_path)
    pulse.start(record=tmp_path / "speaker.raw")
    try:
        with server("--slots", "1", fake=True) as port:
            heard = moshi_client(port, SECONDS, pulse, tmp_path)
    finally:
        pulse.stop()
    # Two processes and a sound server pass the sound on: on a busy machine it comes in bursts, or is not recorded at all.
    check(heard, sent=0.8, silent=0.2)
    assert (tmp_path / "speaker.raw").read_bytes().strip(b"\0")  # it was played
