"""A real server in a thread of the test: uvicorn on a free port, a tiny random model, every protocol."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from duplex.testing import fake_loaded_model
from infer.server.access import Access
from infer.server.app import create_app
from infer.server.host import Server
from infer.server.limits import Limits
from infer.server.loop import Service
from infer.server.rows import BatchedSessions


@dataclass
class Running:
    """A server that takes connections."""

    port: int
    service: Service
    server: Server
    loop: asyncio.AbstractEventLoop

    def url(self, path: str = "/api/chat") -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    def call(self, what):
        """Runs a function in the server's event loop."""
        done, box = threading.Event(), []

        def run():
            box.append(what())
            done.set()

        self.loop.call_soon_threadsafe(run)
        assert done.wait(20)
        return box[0]

    def wait_free(self, seconds: float = 5.0) -> float:
        """Waits until no seat is taken; how long that took."""
        begun = time.monotonic()
        while self.service.seats:
            assert time.monotonic() - begun < seconds, self.service.seats
            time.sleep(0.01)
        return time.monotonic() - begun


@contextlib.contextmanager
def serving(limits: Limits | None = None, access: Access | None = None, model=None,
            drain_seconds: float = 5.0, certificate: tuple[str, str] | None = None) -> Iterator[Running]:
    limits = limits or Limits(slots=2)
    service = Service(BatchedSessions(model or fake_loaded_model(), limits.slots), limits)
    ready, box = threading.Event(), {}

    def tell(port):
        box["port"] = port
        ready.set()

    server = Server(create_app(service, access), "127.0.0.1", 0, drain_seconds, certificate, tell)

    def run():
        async def main():
            box["loop"] = asyncio.get_running_loop()
            await server._serve()  # without the signal handlers, which only a main thread may set

        asyncio.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(60), "the server does not start"
        yield Running(box["port"], service, server, box["loop"])
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def dial(running: Running, query: str = "audio=pcm", **options) -> ClientConnection:
    return connect(f"{running.url()}?{query}", open_timeout=30, compression=None, **options)


def rest(socket: ClientConnection, seconds: float = 20.0) -> tuple[list, ConnectionClosed]:
    """All messages until the close, and the close."""
    messages = []
    while True:
        try:
            messages.append(socket.recv(timeout=seconds))
        except ConnectionClosed as closed:
            return messages, closed
