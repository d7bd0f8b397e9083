"""Systems behind a wire: sound and words come back, and a server that hangs or ends early is an error of its item alone."""

import asyncio
import base64
import contextlib
import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import remote
from benchmarks.items import Item
from benchmarks.remote import ServerSystem
from duplex.errors import InputError
from duplex.testing import tone
from duplex.units import FRAME_SAMPLES

ITEM = Item("turn/0000", "turn", "x", "y", 0, np.zeros(6 * FRAME_SAMPLES, np.float32), {"turn": (0.0, 0.1)}, "", ())


@contextlib.contextmanager
def live_server(behaviour):
    """A server of the Live API on a free port: "answers", "hangs", "ends early" or "complains"."""
    from websockets.asyncio.server import serve

    loop, ready, port = asyncio.new_event_loop(), threading.Event(), []

    async def conversation(socket):
        started = json.loads(await socket.recv())
        assert started["type"] == "session.start" and socket.request.path == "/v1/live/sessions"
        frames = 0
        async for message in socket:
            if json.loads(message)["type"] != "session.input_audio.append" or behaviour == "hangs":
                continue
            if behaviour == "complains":
                await socket.send(json.dumps({"type": "error", "error": {"message": "no seat is free"}}))
            data = np.round(tone(0.08) * 32767).astype("<i2").tobytes()
            await socket.send(json.dumps({"type": "session.output_audio.delta", "delta": base64.b64encode(data).decode()}))
            text = [" nine", " pl", "us"]
            if frames < len(text):
                await socket.send(json.dumps({"type": "session.output_transcript.delta", "delta": text[frames],
                                              "start_ms": 80 * frames}))
            frames += 1
            if behaviour == "ends early" and frames == 2:
                return

    async def main():
        async with serve(conversation, "127.0.0.1", 0) as server:
            port.append(server.sockets[0].getsockname()[1])
            stop = loop.create_future()
            port.append(stop)
            ready.set()
            await stop

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield f"live://127.0.0.1:{port[0]}"
    finally:
        loop.call_soon_threadsafe(port[1].set_result, None)
        thread.join(10)


def test_sound_and_words_come_back():
    with live_server("answers") as url:
        system = ServerSystem(url, grace=20)
        first, second = system.respond([ITEM, ITEM])
    assert system.has_text and not first.error and not second.error
    assert len(first.pcm) == len(ITEM.user) and np.abs(first.pcm[:FRAME_SAMPLES]).max() > 0.05
    assert [w.text for w in first.words] == ["nine", "plus"] and first.words[1].start == pytest.approx(0.08)


@pytest.mark.parametrize("behaviour, message", [
    ("hangs", "hangs"), ("ends early", "turn/0000"), ("complains", "no seat is free")])
def test_what_goes_wrong_is_the_items_error(behaviour, message):
    with live_server(behaviour) as url:
        response = ServerSystem(url, grace=1.0).respond([ITEM])[0]
    assert message in response.error and len(response.pcm) == len(ITEM.user)


def test_both_protocols_of_the_real_server(monkeypatch):
    """This repository's server with a small random model: an item is played to it over Moshi's protocol and the Live API."""
    from serving import serving

    # A machine that stands still for half a second costs frames, which is the server's right; here it is about the protocols.
    monkeypatch.setattr(remote, "LEAST", 0.2)
    item = replace(ITEM, user=np.concatenate([tone(1.0), np.zeros(12 * FRAME_SAMPLES, np.float32)])[: 24 * FRAME_SAMPLES])
    with serving() as running:
        for scheme, text in (("ws", False), ("live", True)):
            for _ in range(3):
                system = ServerSystem(f"{scheme}://127.0.0.1:{running.port}", grace=60)
                first = system.respond([item])[0]
                running.wait_free(30)
                if not first.error:
                    break
            assert not first.error and len(first.pcm) == len(item.user) and system.has_text is text
            assert np.abs(first.pcm).max() > 0  # a random model is not silent


def test_no_server_and_no_address():
    assert ServerSystem("live://127.0.0.1:9", grace=1.0).respond([ITEM])[0].error
    for url in ("http://here", "here", "folder:x"):
        with pytest.raises(InputError, match="not a server"):
            ServerSystem(url)
