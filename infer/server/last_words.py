"""Last words for clients whose server process is lost: an ASGI layer that runs in front of it, in Ray's proxies.

When a replica dies, what the proxy has of its conversation just ends: without an error message and without a close code a client
cannot know what happened. This layer notices, and says so.
"""

from __future__ import annotations

import contextlib
import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

INTERNAL = 1011
REASON = "the process that held this conversation is lost; connect again"


class LastWords:
    """Ends every accepted WebSocket that its application leaves open: an error message of its protocol, then a close in words."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        is_open = False

        async def sending(message: Message) -> None:
            nonlocal is_open
            is_open = message["type"] == "websocket.accept" or is_open and message["type"] != "websocket.close"
            await send(message)

        async def receiving() -> Message:
            nonlocal is_open
            message = await receive()
            is_open = is_open and message["type"] != "websocket.disconnect"
            return message

        try:
            await self.app(scope, receiving, sending)
        finally:
            if is_open:
                with contextlib.suppress(Exception):  # the client may be gone, too
                    await send({"type": "websocket.send", **_complaint(scope["path"])})
                    await send({"type": "websocket.close", "code": INTERNAL, "reason": REASON})


def _complaint(path: str) -> dict[str, str | bytes]:
    """The error message of the protocol that is spoken at this path."""
    if path.endswith("/live/sessions"):
        return {"text": json.dumps({"type": "error", "error": {"type": "server_error", "code": "lost", "message": REASON}})}
    return {"bytes": bytes([5]) + REASON.encode()}
