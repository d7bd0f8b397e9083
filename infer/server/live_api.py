"""`/v1/live/sessions`: the OpenAI Live API over a primary WebSocket."""

from __future__ import annotations

import time
from concurrent.futures import Executor
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from infer.server.conduct import Goodbye, conduct, farewell, idle, in_pool, receive
from infer.server.limits import BAD_PAYLOAD, GOING_AWAY, NORMAL, POLICY, ClientError
from infer.server.live_wire import (
    APPEND,
    CLOSE,
    Complaint,
    LiveWire,
    complaint_event,
    error_event,
    parse_event,
    parse_start,
)
from infer.server.loop import Service

_MAX_COMPLAINTS = 20
"""A client whose commands are refused this often has lost its way."""


async def live(ws: WebSocket, service: Service, pool: Executor) -> None:
    """One session of the Live API, from the accepted upgrade to the close."""
    await ws.accept()
    limits = service.limits
    try:
        refusal = service.refusal()  # said at once, not after session.start has been waited for
        if refusal is not None:
            service.metrics.refused.labels(refusal.label).inc()
            raise refusal
        opening = parse_event(await receive(ws, limits, limits.idle_seconds))
        start = parse_start(opening)
        seat = service.admit(start.wish, "live")
    except WebSocketDisconnect:
        return
    except Complaint as complaint:
        await farewell(ws, BAD_PAYLOAD, complaint.message, complaint_event(complaint, None))
        return
    except ClientError as refused:
        await farewell(ws, refused.code, refused.reason, error_event(refused.label, refused.reason))
        return
    wire = LiveWire(start, seat.id, int(time.time() + limits.session_seconds))
    last: dict[str, Any] = {}

    async def hear() -> None:
        complaints, last_sound = 0, service.clock()
        while not seat.left:
            left = last_sound + limits.idle_seconds - service.clock()
            event = parse_event(await receive(ws, limits, max(left, 0.01)))
            try:
                if event["type"] == APPEND:
                    seat.push(await in_pool(pool, len(str(event.get("audio", ""))) > 50_000, wire.hear, event))
                    last_sound = service.clock()
                elif event["type"] == CLOSE:
                    last["event"] = event
                    raise Goodbye
                else:
                    await ws.send_text(wire.answer(event))
            except Complaint as complaint:
                complaints += 1
                await ws.send_text(complaint_event(complaint, event))
                if complaints > _MAX_COMPLAINTS:
                    raise ClientError(POLICY, "too many commands that cannot be carried out", "complaints") from None
            if left <= 0:
                raise idle(limits)

    async def speak() -> None:
        await seat.ready.wait()
        await ws.send_text(wire.started(opening))
        while not seat.left:
            frame, _ = await seat.outbox.get()
            for event in wire.say(frame):
                await ws.send_text(event)

    ending = await conduct(seat, hear, speak)
    if ending is not None:
        reason = "expired" if ending.code in (NORMAL, GOING_AWAY) else "connection_lost"
        await farewell(ws, ending.code, ending.reason, error_event(ending.label, ending.reason), wire.closed(reason))
    elif "event" in last:
        await farewell(ws, NORMAL, "closed as requested", wire.closed("close_requested", last["event"]))
