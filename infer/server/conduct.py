"""One client's connection from seat to close: a task that hears, a task that speaks, and one way to end.

Both wires use it. Whatever ends a session, the seat is given back first; telling the client comes after that and is
given a second, since a client that does not read would never take the message.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import TypeVar

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from infer.server.limits import INTERNAL, NORMAL, POLICY, TOO_BIG, ClientError, Limits
from infer.server.loop import Seat

T = TypeVar("T")
log = logging.getLogger("duplex.server")
_FAREWELL_SECONDS = 1.0
_REASON_BYTES = 123  # a close frame holds no more


class Goodbye(Exception):
    """The client has said that it is done."""


async def receive(ws: WebSocket, limits: Limits, seconds: float) -> bytes | str:
    """The next message. Raises ClientError when it is too large or does not come, WebSocketDisconnect when it cannot."""
    try:
        message = await asyncio.wait_for(ws.receive(), seconds)
    except asyncio.TimeoutError:
        raise idle(limits) from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", NORMAL))
    data = message.get("bytes")
    if data is None:
        data = message.get("text") or ""
    if len(data) > limits.message_bytes:
        raise ClientError(TOO_BIG, f"a message of {len(data)} bytes is more than the {limits.message_bytes} allowed; send "
                          "sound as it comes", "too_big")
    return data


def idle(limits: Limits) -> ClientError:
    """The end of a session whose client sends no sound."""
    return ClientError(POLICY, f"no sound came for {limits.idle_seconds:g} seconds; send it in real time, silence included",
                       "idle")


async def conduct(seat: Seat, hear: Callable[[], Awaitable[None]], speak: Callable[[], Awaitable[None]]) -> ClientError | None:
    """Runs both sides of a session until one ends; gives the reason to tell the client, None when it left by itself.

    The seat is free when this returns. The two callables loop until the seat is left or an exception ends them; they must
    look at the seat, since `asyncio.wait_for` of Python 3.11 may swallow a cancellation while messages pour in.
    """
    limits = seat.service.limits
    tasks = [asyncio.create_task(hear(), name=f"hear {seat.id}"), asyncio.create_task(speak(), name=f"speak {seat.id}"),
             asyncio.create_task(seat.over.wait(), name=f"over {seat.id}")]
    ending: ClientError | None = None
    cause = "left"
    try:
        done, _ = await asyncio.wait(tasks, timeout=limits.session_seconds, return_when=asyncio.FIRST_COMPLETED)
        ending = seat.ending
        if not done:
            ending = ClientError(NORMAL, f"the conversation reached its limit of {limits.session_seconds:g} seconds", "limit")
        for task in done:
            error = task.exception()
            if isinstance(error, ClientError):
                ending = ending or error
            elif error is not None and not isinstance(error, Goodbye | WebSocketDisconnect):
                if not _connection_lost(error):
                    log.error("session %s ended in an error", seat.id, exc_info=error)
                    ending = ending or ClientError(INTERNAL, "an internal error ended this session; connect again", "crash")
        cause = ending.label if ending is not None else "left"
    finally:
        seat.leave(cause)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return ending


async def farewell(ws: WebSocket, code: int, reason: str, *messages: bytes | str) -> None:
    """Sends last messages and closes, if the client still takes them."""
    async def tell() -> None:
        for message in messages:
            await (ws.send_text(message) if isinstance(message, str) else ws.send_bytes(message))
        if ws.application_state is not WebSocketState.DISCONNECTED:
            await ws.close(code, reason.encode()[:_REASON_BYTES].decode(errors="ignore"))

    with contextlib.suppress(Exception):
        await asyncio.wait_for(tell(), _FAREWELL_SECONDS)


async def in_pool(pool: Executor, slow: bool, call: Callable[..., T], *values: object) -> T:
    """`call(*values)`, in the pool when it is slow."""
    return await asyncio.get_running_loop().run_in_executor(pool, call, *values) if slow else call(*values)


def _connection_lost(error: BaseException) -> bool:
    """Is this how a vanished peer shows when one writes to it?"""
    return isinstance(error, ConnectionError | OSError) or (
        isinstance(error, RuntimeError) and ("websocket.close" in str(error) or "disconnect" in str(error)))
