"""`/api/chat`: Moshi's protocol."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from starlette.websockets import WebSocket

from infer.server.conduct import conduct, farewell, idle, in_pool, receive
from infer.server.limits import ClientError
from infer.server.loop import Service
from infer.server.moshi_wire import GREETING, SOUND, MoshiWire, error_message, metadata, parse_query

_QUIET_SECONDS = 5.0
"""After so long without a frame a ping goes out: upstream's page closes after ten seconds of nothing."""
_PING = bytes([6])


async def chat(ws: WebSocket, service: Service, pool: Executor) -> None:
    """One conversation in Moshi's protocol, from the accepted upgrade to the close."""
    await ws.accept()
    try:
        options = parse_query(ws.query_params)
        seat = service.admit(options.wish, "moshi")
    except ClientError as refused:
        await farewell(ws, refused.code, refused.reason, error_message(refused.reason))
        return
    wire, limits = MoshiWire(options), service.limits

    async def hear() -> None:
        last_sound = service.clock()
        while not seat.left:
            left = last_sound + limits.idle_seconds - service.clock()
            message = await receive(ws, limits, max(left, 0.01))
            pcm = await in_pool(pool, wire.codec_is_slow, wire.hear, message)
            if message[:1] == bytes([SOUND]):
                last_sound = service.clock()
                seat.push(pcm)
            elif left <= 0:
                raise idle(limits)

    async def speak() -> None:
        await seat.ready.wait()
        await ws.send_bytes(GREETING)
        if options.events:
            await ws.send_bytes(metadata({"type": "start", "session": seat.id, "seed": seat.seed,
                                          "model": service.batch.name, "delay_frames": service.batch.delay}))
        while not seat.left:
            try:
                frame, latency = await asyncio.wait_for(seat.outbox.get(), _QUIET_SECONDS)
            except asyncio.TimeoutError:
                await ws.send_bytes(_PING)
                continue
            for message in await in_pool(pool, wire.codec_is_slow, wire.say, frame, latency, seat.dropped):
                await ws.send_bytes(message)

    ending = await conduct(seat, hear, speak)
    if ending is not None:
        await farewell(ws, ending.code, ending.reason, error_message(ending.reason))
