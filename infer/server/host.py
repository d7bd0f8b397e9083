"""uvicorn, set up for this application: quick pings, no access log, and a stop signal that lets sessions end."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from infer.server.loop import Service

_CLOSING_SECONDS = 2.0
"""So long may a peer take for its part of the close; then the connection is cut."""


class Requests(H11Protocol):
    """uvicorn's HTTP connection, with an end to its patience: a peer that never finishes asking would keep it for ever."""

    def __init__(self, *arguments: Any, seconds: float, **options: Any):
        super().__init__(*arguments, **options)
        self._seconds = seconds
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time runs from here, and from each answer on."""
        super().connection_made(transport)
        self._arm()

    def on_response_complete(self) -> None:
        """The next request may begin."""
        super().on_response_complete()
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is left to wait for."""
        self._disarm()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """From now on the WebSocket's own rules hold."""
        self._disarm()
        super().handle_websocket_upgrade(event)

    def _arm(self) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(self._seconds, self._give_up)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


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
            http=functools.partial(Requests, seconds=limits.request_seconds),
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
