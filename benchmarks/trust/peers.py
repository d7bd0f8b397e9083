"""Bad peers on plain sockets: those that vanish in every stage, stop reading, or flood."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from duplex.units import FRAME_SAMPLES

UPGRADE = (b"GET /api/chat?audio=pcm HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
_SOUND = b"\1" + np.zeros(FRAME_SAMPLES, "<i2").tobytes()
FRAME = b"\x82\xfe" + struct.pack(">H", len(_SOUND)) + bytes(4) + _SOUND
"""A whole masked message with 80 ms of sound; its mask is zero."""
GREETED = b"\x82\x01\0"
"""The message with which a conversation begins."""
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


@dataclass(frozen=True)
class Flooding:
    """What became of a flood; counts are frames of 80 ms."""

    sent: int
    told: int
    """Of them, those sent before the peer was told that its conversation is over."""
    seconds: float
    """Until the connection was cut off, or the end."""


class Opcodes:
    """What kinds of messages a server's bytes hold, which it does not mask (RFC 6455, section 5.2)."""

    CLOSE = 8

    def __init__(self) -> None:
        self._data = b""

    def push(self, data: bytes) -> list[int]:
        """The opcodes of the messages that are complete now."""
        self._data += data
        found = []
        while len(self._data) >= 2:
            size = self._data[1] & 127
            head = {126: 4, 127: 10}.get(size, 2)
            if head > 2:
                size = int.from_bytes(self._data[2:head], "big")
            if len(self._data) < head + size:
                break
            found.append(self._data[0] & 15)
            self._data = self._data[head + size :]
        return found


def flood(port: int, times: float, seconds: float) -> Flooding:
    """Sends sound so many times faster than real time, from the greeting on until the connection is cut off or time is up."""
    raw, number, told, opcodes, heard = dial(port), 0, None, Opcodes(), b""
    raw.sendall(UPGRADE)
    while GREETED not in heard:  # sound that comes earlier is nobody's
        data = raw.recv(300)
        if not data:
            raise ConnectionError("the server closes in place of a greeting")
        heard += data
    opcodes.push(heard.partition(GREETED)[2])
    raw.setblocking(False)
    begun = time.monotonic()
    try:
        while time.monotonic() - begun < seconds:
            with contextlib.suppress(BlockingIOError):
                while data := raw.recv(65_536):
                    if Opcodes.CLOSE in opcodes.push(data) and told is None:
                        told = number
                break  # the server has closed
            due = times * (time.monotonic() - begun) / 0.08
            while number < due:
                raw.setblocking(True)
                raw.sendall(FRAME)
                raw.setblocking(False)
                number += 1
            time.sleep(0.004)
    except OSError:
        pass
    finally:
        raw.close()
    return Flooding(number, number if told is None else told, time.monotonic() - begun)
