"""Conversations whose server process is lost end in words."""

from __future__ import annotations

import asyncio
import json

import pytest

pytest.importorskip("starlette", reason="the server's parts are not installed: pip install -e '.[serve]'")
from infer.server.last_words import REASON, LastWords  # noqa: E402

ACCEPT, SOUND = {"type": "websocket.accept"}, {"type": "websocket.send", "bytes": b"\1sound"}


def ended(steps, path="/api/chat", kind="websocket"):
    """What a client gets of an application that sends these messages, or receives (None), and then returns or raises."""
    sent = []

    async def app(scope, receive, send):
        for step in steps:
            if isinstance(step, Exception):
                raise step
            await (receive() if step is None else send(step))

    async def receive():
        return {"type": "websocket.disconnect", "code": 1005}

    async def send(message):
        sent.append(message)

    try:
        asyncio.run(LastWords(app)({"type": kind, "path": path}, receive, send))
    except RuntimeError as error:
        assert str(error) == "lost"
    return sent


@pytest.mark.parametrize("end", [[], [RuntimeError("lost")]])
def test_an_application_that_just_ends_is_ended_in_words(end):
    found = ended([ACCEPT, SOUND, *end])
    assert found[:2] == [ACCEPT, SOUND] and found[2]["bytes"] == b"\5" + REASON.encode()
    assert found[3] == {"type": "websocket.close", "code": 1011, "reason": REASON} and len(REASON) <= 123
    told = ended([ACCEPT, *end], "/v1/live/sessions")[1]["text"]
    assert json.loads(told)["error"]["message"] == REASON


def test_nothing_is_added_where_the_end_has_been_said():
    close = {"type": "websocket.close", "code": 1013}
    assert ended([ACCEPT, SOUND, close]) == [ACCEPT, SOUND, close]
    assert ended([close]) == [close]  # never accepted
    assert ended([ACCEPT, None]) == [ACCEPT]  # the client went first
    assert ended([]) == []
    answer = {"type": "http.response.start", "status": 200}
    assert ended([answer], kind="http") == [answer]
