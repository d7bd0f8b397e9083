"""uvicorn, set up for this application: quick pings, no access log, and a stop signal that lets sessions end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from infer.server.loop import Service

_CLOSING_SECONDS = 2.0
"""So long may a peer take for its part of the close; then the connection is cut."""


class Connection(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket connection, which does not wait for a peer that takes nothing any more.

    Closing a socket whose peer does not read keeps it, and what was to be sent, for many minutes.
    """

    def keepalive_timeout(self) -> None:
        """The peer did not answer a ping."""
        super().keepalive_timeout()
        self.loop.call_later(_CLOSING_SECONDS, self.transport.abort)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The session is over, and what there was to say has been said."""
        super().on_task_complete(task)
        self.loop.call_later(_CLOSING_SECONDS, self.transport.abort)


class Server(uvicorn.Server):
    """A uvicorn server that drains its service before it stops; the second signal stops it at once."""

    def __init__(self, app: Starlette, host: str, port: int, drain_seconds: float, certificate: tuple[str, str] | None = None,
                 on_ready: Callable[[int], None] | None = None):
        self.service: Service = app.state.service
        self.drain_seconds = drain_seconds
        self.on_ready = on_ready
        """Called with the port when connections are taken."""
        self.draining: asyncio.Task[None] | None = None
        limits = self.service.limits
        super().__init__(uvicorn.Config(
            app, host, port, log_level="warning", access_log=False, server_header=False, date_header=False,
            # Twice what a session may send, so that it is told in words which of its messages was too long.
            ws=Connection, ws_max_size=4 * limits.message_bytes, ws_per_message_deflate=False,
            ws_ping_interval=limits.ping_seconds, ws_ping_timeout=limits.ping_seconds, timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=16 * 1024, timeout_keep_alive=5,
            ssl_certfile=certificate[0] if certificate else None, ssl_keyfile=certificate[1] if certificate else None))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and then says so."""
        await super().startup(sockets)
        if self.started and self.on_ready is not None:
            self.on_ready(self.port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second stops. Either way the end is an orderly one, with exit status 0."""
        if self.draining is not None or not self.service.seats:
            self.should_exit = True
            return
        self.draining = asyncio.get_event_loop().create_task(self._drain())

    async def _drain(self) -> None:
        await self.service.drain(self.drain_seconds)
        self.should_exit = True

    @property
    def port(self) -> int:
        """The port that is bound, also when 0 was asked for."""
        return self.servers[0].sockets[0].getsockname()[1]
