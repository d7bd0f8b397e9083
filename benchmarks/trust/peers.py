"""Bad peers on plain sockets: those that vanish in every stage, stop reading, or flood."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable

import numpy as np

from duplex.units import FRAME_SAMPLES

UPGRADE = (b"GET /api/chat?audio=pcm HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
_SOUND = b"\1" + np.zeros(FRAME_SAMPLES, "<i2").tobytes()
FRAME = b"\x82\xfe" + struct.pack(">H", len(_SOUND)) + bytes(4) + _SOUND
"""A whole masked message with 80 ms of sound; its mask is zero."""
VANISHING = ("connect", "half a handshake", "upgrade", "greeted", "half a frame", "talking")
"""Stages in which a peer goes."""


def dial(port: int, buffer: int | None = None) -> socket.socket:
    """A connection; `buffer` is the size of its receive buffer."""
    raw = socket.socket()
    if buffer is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    raw.settimeout(20)
    raw.connect(("127.0.0.1", port))
    return raw


def begin(port: int, stage: str) -> socket.socket:
    """A connection that has come as far as this stage."""
    raw = dial(port)
    with contextlib.suppress(OSError):  # a server without a place may have closed already
        if stage == "half a handshake":
            raw.sendall(UPGRADE[:60])
        elif stage != "connect":
            raw.sendall(UPGRADE)
            if stage != "upgrade":
                raw.recv(300)
                raw.sendall(FRAME[:100] if stage == "half a frame" else FRAME if stage == "talking" else b"")
    return raw


def reset(raw: socket.socket) -> None:
    """Ends it with a reset, not a goodbye."""
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


def talk_deaf(port: int, seconds: float, ended: Callable[[], bool]) -> float | None:
    """Talks in real time and never reads; the seconds until it is cut off, None when that does not happen."""
    raw, begun, number = dial(port, 4096), time.monotonic(), 0
    try:
        raw.sendall(UPGRADE)
        while time.monotonic() - begun < seconds:
            if number > 25 and ended():
                return time.monotonic() - begun
            raw.sendall(FRAME)
            number += 1
            time.sleep(max(0.0, begun + 0.08 * number - time.monotonic()))
        return None
    except OSError:
        return time.monotonic() - begun
    finally:
        reset(raw)


def flood(port: int, times: float, seconds: float) -> tuple[int, float]:
    """Sends sound so many times faster than real time; frames sent, and seconds until it was cut off (or the end)."""
    raw, begun, number = dial(port), time.monotonic(), 0
    raw.sendall(UPGRADE)
    raw.recv(300)
    raw.setblocking(False)
    try:
        begun = time.monotonic()
        while (now := time.monotonic() - begun) < seconds:
            with contextlib.suppress(BlockingIOError):
                while raw.recv(65_536):
                    pass
                break  # the server has closed
            while number < times * now / 0.08:
                raw.setblocking(True)
                raw.sendall(FRAME)
                raw.setblocking(False)
                number += 1
            time.sleep(0.004)
    except OSError:
        pass
    finally:
        raw.close()
    return number, time.monotonic() - begun
